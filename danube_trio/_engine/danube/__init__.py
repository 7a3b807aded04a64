"""Directories that Danube itself wrote."""
