"""The buyable forms of products."""
