"""Floor 5: the command line and what it starts."""
