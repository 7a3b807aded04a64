"""Mutants: changes by hand that break a promise, and the tests that must notice. See `run`."""
