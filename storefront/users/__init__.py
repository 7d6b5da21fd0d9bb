"""Users: sign-in, profile, sign-out, and administration by the operator."""
