"""The store log: gapless positions per store, in commit order. Subscriptions, catch-up, caching and audit read it."""
