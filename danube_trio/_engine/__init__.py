"""One log, many logs, and their keeping."""
