"""Request ids, health, metrics and traces of requests."""
