"""What users think of products."""
