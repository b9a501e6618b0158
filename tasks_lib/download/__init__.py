"""Download of one blob from several sources: order, retries, resume, and a report of every attempt.

No source can make a download accept a wrong byte, and the failure of one source never hides the failures of the others.
The time and the attempts of each source are bounded. A host that does not respond is not retried for later downloads of
the same run. `downloader` lists the steps.
"""

from tasks_lib.cache.results import Provenance
from tasks_lib.download.downloader import Downloader
from tasks_lib.download.source_state import Request
from tasks_lib.network import Policy

__all__ = ["Downloader", "Policy", "Provenance", "Request"]
