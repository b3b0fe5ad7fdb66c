"""What a person looks at: pictures of predictions, and one self-contained HTML page a run."""
