"""`fetch-content`: Taskgraph's command line on this house's floors.

Owns flags, environment, exit codes and log lines; the bytes come from `sources` and `unpinned`, through the store, and
go out through `archive` and `tree`. Importing it loads next to nothing: a consumer waits for the first request.
Source of the contract: taskgraph 24.2, `run-task/fetch-content` (as described, never copied); docs/fetch-content.md.
"""
