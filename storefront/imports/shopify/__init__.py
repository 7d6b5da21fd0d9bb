"""Shopify's CSV files and its store as sources of products."""
