"""The graph: definitions -> doit tasks. The only floor that knows doit.

A user's `dodo.py` is one line: `from doit_fetch import DOIT_CONFIG, task_fetchdefs`.
"""

import gc

gc.freeze()  # doit is loaded by now: no look for garbage while this floor is loaded needs to go through it
