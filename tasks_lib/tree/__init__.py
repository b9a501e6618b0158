"""Extracted directories: written here and nowhere else, completely or not at all.

Entries go into a staging directory beside the record, component by component through directory descriptors that follow
nothing; symlinks come last; only a whole, judged tree is renamed into place. What stands where is recorded outside of
the tree, so that no archive can forge it.
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
