"""The commands of `doit` in a project: run, list, info, why, graph, verify, prune, cache, report and help."""
