"""Pins: write definitions from what was downloaded, and move them to other versions.

Nothing unpinned is written: a definition is edited only after its content was downloaded, measured and verified.
"""
