"""Git: owns the git program and what lies in its bare repositories.

A commit is believed once it is recomputed: every object that is read is hashed and compared with the id under which
its parent names it, from the pinned commit down. No checkout, no filter, no attribute, no hook and no configuration
but this package's has any effect. Refuses the path and submodule tricks of git's CVEs (docs/git.md).
"""

from tasks_lib.vcs.git.commit_tree import Gitlink, Leaf, Listing, listing
from tasks_lib.vcs.git.objects import MissingObjectError, Objects
from tasks_lib.vcs.git.repository import GitRepository
from tasks_lib.vcs.git.submodules import Submodule, submodules
from tasks_lib.vcs.git.synthetic_gitdir import dot_git

__all__ = [
    "GitRepository",
    "Gitlink",
    "Leaf",
    "Listing",
    "MissingObjectError",
    "Objects",
    "Submodule",
    "dot_git",
    "listing",
    "submodules",
]
