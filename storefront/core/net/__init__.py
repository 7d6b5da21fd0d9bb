"""Outbound HTTP with protection against SSRF, Shopify's API, and metadata of clients."""
