"""Downloads that a repository makes without this package, found by reading its files; nothing is executed."""

from tasks_lib.adopt.findings import FoundDownload
from tasks_lib.adopt.repository import find_downloads

__all__ = ["FoundDownload", "find_downloads"]
