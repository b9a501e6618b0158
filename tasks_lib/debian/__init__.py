"""Debian packages: Release files and their signatures, indexes, and locks of resolved packages.

`lock` reads and writes locks; `release` verifies Release files; `resolve` lets apt choose packages and makes a lock.
"""
