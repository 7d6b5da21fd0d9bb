"""Products: lists, search, single products, changes, and their mutations."""
