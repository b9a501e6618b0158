"""Debian repositories: control files, locks, indexes, and flat repositories of packages."""
