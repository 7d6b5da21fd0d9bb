"""Product images: uploads to presigned URLs, processing, serving in several sizes, and garbage collection."""
