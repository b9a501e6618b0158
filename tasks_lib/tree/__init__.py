"""Extracted directories, written completely or not at all.

All code that writes extracted trees is in this package. Entries are written to a staging directory next to the
manifest, component by component through directory descriptors that never follow symlinks. Symlinks are created last.
Only a complete, validated tree is renamed into place. The manifest is outside the tree, so no archive can forge it.
"""
