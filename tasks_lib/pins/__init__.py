"""Maintenance of definitions: versions, look-ups of upstream, findings, bills of materials."""
