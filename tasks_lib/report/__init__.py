"""The page and the trace of the last run, made from its record."""
