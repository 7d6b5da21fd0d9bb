"""Requests to other hosts, and which hosts they may go to (SSRF)."""
