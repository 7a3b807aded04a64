"""The running log: accept, write, sync, seal, upload, free."""
