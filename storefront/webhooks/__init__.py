"""Webhooks: a store's log, told to addresses that its owner names."""
