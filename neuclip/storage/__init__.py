"""Files at any URI: a local path or `s3://bucket/key`.

Contract: the only importer of fsspec. A write is seen whole or not at all. Endpoint and keys come from
the usual AWS_* environment variables, never from a recipe, and are never logged. Failures are
StorageError; those that may pass by themselves are TransientStorageError.
"""
