"""Debian packages: Release files and their signatures, indexes, locks of resolved packages, and flat repositories.

`lock` reads and writes locks; `release` verifies Release files; `resolve` lets apt choose packages and makes a lock.
`deb822` reads paragraphs; `indexes` compares a lock with the indexes that it names; `repository` writes the packages as
a repository; `source` reads the .dsc of a source package.
"""
