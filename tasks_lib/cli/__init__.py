"""The `doit` commands: run, list, info, why, graph, verify, prune, cache, report and help."""
