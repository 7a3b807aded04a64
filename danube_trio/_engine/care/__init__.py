"""Verify, repair, restore: logs that nobody has open."""
