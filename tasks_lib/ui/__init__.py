"""Display of a run in progress: events, live display, log lines, JSON."""
