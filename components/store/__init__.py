"""Where work is kept: backends (folder, S3), cache entries, tensors, export and import, check, garbage collection."""
