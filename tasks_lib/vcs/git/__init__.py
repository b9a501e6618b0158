"""Git: runs git and manages its bare repositories.

Every object is verified from the pinned commit down: it is hashed and compared with the id in its parent. Checkouts,
filters, attributes and hooks have no effect, and the only configuration is that of this package. Paths and submodules
that exploit CVEs of git are rejected (docs/git.md).
"""

from tasks_lib.vcs.git.commit_tree import Gitlink, Leaf, Listing, read_commit_tree
from tasks_lib.vcs.git.objects import AnnotatedTagError, MissingObjectError, Objects
from tasks_lib.vcs.git.repository import GitRepository
from tasks_lib.vcs.git.submodules import Submodule, read_submodules
from tasks_lib.vcs.git.synthetic_gitdir import GitdirPaths, gitdir_files

__all__ = [
    "AnnotatedTagError",
    "GitRepository",
    "GitdirPaths",
    "Gitlink",
    "Leaf",
    "Listing",
    "MissingObjectError",
    "Objects",
    "Submodule",
    "gitdir_files",
    "read_commit_tree",
    "read_submodules",
]
