"""Git: owns the git program and what lies in its bare repositories.

A commit is believed once it is recomputed: every object that is read is hashed and compared with the id under which
its parent names it, from the pinned commit down. No checkout, no filter, no attribute, no hook and no configuration
but this package's has any effect. Refuses the path and submodule tricks of git's CVEs (docs/git.md).
"""

from tasks_lib.git.dotgit import dot_git
from tasks_lib.git.listing import Gitlink, Leaf, Listing, listing
from tasks_lib.git.objects import MissingObjectError, Objects
from tasks_lib.git.repository import Repository
from tasks_lib.git.submodules import Submodule, submodules

__all__ = [
    "Gitlink",
    "Leaf",
    "Listing",
    "MissingObjectError",
    "Objects",
    "Repository",
    "Submodule",
    "dot_git",
    "listing",
    "submodules",
]
