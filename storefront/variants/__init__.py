"""Variants of products: commands and mutations."""
