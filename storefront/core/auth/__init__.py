"""Authentication: our own tokens, OpenID Connect, Auth.js sessions; and protection against CSRF."""
