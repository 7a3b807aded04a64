"""Facts about a log, without any I/O.

Nothing in this package imports trio, os, time or random, awaits, or opens a file: bytes and numbers
come in as arguments and go out as values, so every rule here can be tested by itself. A test
enforces it.
"""
