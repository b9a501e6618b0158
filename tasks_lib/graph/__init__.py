"""Task graph: definitions -> doit tasks.

A user's `dodo.py` is one line: `from doit_fetch import DOIT_CONFIG, task_fetchdefs`.
"""
