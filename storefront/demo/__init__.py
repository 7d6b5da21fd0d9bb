"""Demo data: deterministic sample stores, loaded in one transaction."""
