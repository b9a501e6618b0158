"""Extracted directories, written completely or not at all.

All code that writes extracted trees is in this package. Entries are written to a staging directory next to the
manifest, component by component through directory descriptors that never follow symlinks. Symlinks are created last.
Only a complete, validated tree is renamed into place. The manifest is outside the tree, so no archive can forge it.
"""

from tasks_lib.tree.cached_tree import UNPACKED_VERSION, CachedTree, DamagedTreeError, unpack
from tasks_lib.tree.extraction import Extraction
from tasks_lib.tree.stale_entries import drop_strays, start_over
from tasks_lib.tree.writer import remove_tree

__all__ = [
    "UNPACKED_VERSION",
    "CachedTree",
    "DamagedTreeError",
    "Extraction",
    "drop_strays",
    "remove_tree",
    "start_over",
    "unpack",
]
