"""doit-fetch: verified third-party content as an incremental doit graph.

docs/architecture.md lists the layers; import-linter enforces that imports go down only (pyproject.toml).
"""
