"""A search in the store: its space, its trials, their results. No Ray."""
