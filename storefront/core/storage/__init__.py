"""Where files are kept that are too large for rows: a bucket of S3's kind, or a folder."""
