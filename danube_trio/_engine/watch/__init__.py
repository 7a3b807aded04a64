"""A program offers to be watched."""
