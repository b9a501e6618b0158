"""Maintenance of definitions: write them from what was downloaded, move them to other versions, look upstream up.

Nothing unpinned is written: a definition is edited only after its content was downloaded, measured and verified.
"""
