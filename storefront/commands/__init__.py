"""What every write passes through: one transaction, the owner's rule, versions, idempotency, the log. Knows no GraphQL."""
