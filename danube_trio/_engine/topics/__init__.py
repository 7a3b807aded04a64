"""Many logs by name."""
