"""`fetch-content`: a command that is compatible with Taskgraph's.

Owns flags, environment, exit codes and log lines. `download` fetches the bytes into the cache; `archive` and `tree`
write the result. Importing this package loads almost nothing, so that the first request starts early.
Source of the contract: taskgraph 24.2, `run-task/fetch-content` (described, never copied); docs/fetch-content.md.
"""
