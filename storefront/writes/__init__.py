"""What every write shares: unit of work, authorization, validation, optimistic locking, log entries."""
