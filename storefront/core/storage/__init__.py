"""Object storage for files that are too large for rows: an S3-compatible bucket, or a folder."""
