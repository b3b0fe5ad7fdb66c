"""The command line: parses, calls one command, draws its events and its result."""
