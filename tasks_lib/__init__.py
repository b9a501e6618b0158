"""doit-fetch: verified third-party content as an incremental doit graph.

The floors, top down: graph and fetch_content (faces), steps (the verbs), settings, sources, tree,
archive, store / transport / signature / git (one hand per substance), recipe, definitions,
digest / relpath / progress (values), errors (the ground). Imports go down only.
"""
