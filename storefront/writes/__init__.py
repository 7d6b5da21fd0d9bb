"""What every write passes through: transaction, authorization, validation, optimistic lock, changelog."""
