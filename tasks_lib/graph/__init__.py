"""Task graph: definitions -> doit tasks.

A user's `dodo.py` is one line: `from doit_fetch import DOIT_CONFIG, task_fetchdefs`.
"""

import gc

gc.freeze()  # doit is loaded: exempt its objects from garbage collection during further imports
