"""Products: lists, searches, single ones, and what changed."""
