"""Rate limits, load shedding, revoked credentials and security headers."""
