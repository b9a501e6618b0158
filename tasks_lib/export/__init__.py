"""Export of the cache for other programs: a directory in the layout that each of them reads."""

from tasks_lib.export.exporter import Export, export
from tasks_lib.export.images import export_images
from tasks_lib.export.layouts import LAYOUTS, OCI

__all__ = ["LAYOUTS", "OCI", "Export", "export", "export_images"]
