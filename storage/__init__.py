"""Storage of records, folders and logs in a directory, an object store, or another file system."""
