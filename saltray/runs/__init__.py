"""A run in the store: its keys, its manifest, the history and result of each fold, its status. No Ray."""
