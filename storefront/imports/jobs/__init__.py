"""Jobs: their queue, the worker that runs them under a lease, and its checkpoints."""
