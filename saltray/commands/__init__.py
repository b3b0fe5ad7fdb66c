"""A file per verb, named after it, with the function that the user calls."""
