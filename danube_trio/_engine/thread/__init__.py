"""The engine's thread, for programs without trio."""
