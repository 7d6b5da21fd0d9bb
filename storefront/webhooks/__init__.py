"""Webhooks: the changes in a store's log, delivered to URLs of its owner."""
