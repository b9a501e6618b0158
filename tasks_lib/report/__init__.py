"""The report page and the trace of the last run, built from its record."""
