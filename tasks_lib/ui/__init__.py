"""How a run is shown while it happens: events, the live display, log lines, JSON."""
