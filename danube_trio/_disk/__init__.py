"""The machine: files, threads, watches. The only room that touches the file system."""
