"""One cursor over memory, files and objects."""
