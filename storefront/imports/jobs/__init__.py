"""Background jobs: the queue, the workers that run jobs under a lease, and their checkpoints."""
