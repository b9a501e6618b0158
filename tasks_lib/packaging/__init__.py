"""Programs of this package as one file, for a machine that has only a Python."""
