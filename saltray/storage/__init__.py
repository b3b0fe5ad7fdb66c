"""One object store behind URIs, a folder or s3://: every object that saltray keeps goes through here."""
