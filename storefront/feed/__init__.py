"""The store log: one position per store, in commit order. Subscriptions, catch-up, caching and audit all stand on it."""
