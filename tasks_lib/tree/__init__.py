"""Extracted directories, written completely or not at all.

All code that writes extracted trees is in this package. Entries are written to a staging directory next to the
manifest, component by component through directory descriptors that never follow symlinks. Symlinks are created last.
Only a complete, validated tree is renamed into place. The manifest is outside the tree, so no archive can forge it.
"""

from tasks_lib.tree.cached_tree import CachedTree, DamagedTreeError, write_cached_tree
from tasks_lib.tree.extraction import Extraction
from tasks_lib.tree.recorded_tree import RecordedTree
from tasks_lib.tree.stale_entries import remove_stale_entries, reset_directory, take_directory

__all__ = [
    "CachedTree",
    "DamagedTreeError",
    "Extraction",
    "RecordedTree",
    "remove_stale_entries",
    "reset_directory",
    "take_directory",
    "write_cached_tree",
]
