"""Who sends a request: tokens, sessions of Auth.js, OpenID Connect, and protection against CSRF."""
