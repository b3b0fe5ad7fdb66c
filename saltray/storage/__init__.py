"""The object store, a folder or s3://. Everything that saltray reads or writes by URI passes through this package."""
