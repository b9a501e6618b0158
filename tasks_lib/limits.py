"""What an archive may cost, as values.

They stand apart from `archive`, so that settings can be read without loading what decodes. Pure: no I/O.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What an archive may cost; bytes unless the name says otherwise."""

    max_total_bytes: int = 50 << 30
    max_ratio: int = 200  # decompressed : compressed, once more than `free_bytes` came out
    free_bytes: int = 1 << 30
    max_member_bytes: int = 50 << 30
    max_entries: int = 1_000_000
    max_metadata_bytes: int = 1 << 20
    max_path_bytes: int = 4095
    max_component_bytes: int = 255
    max_depth: int = 256  # components
    zstd_max_window_log: int = 27
    xz_memlimit_mib: int = 256
    #: "refuse", or "keep": create them as they are (a sysroot's /lib -> /usr/lib); nothing is ever written through one
    outward_symlinks: str = "refuse"
    #: "refuse", or "keep": a symlink may have a directory's name but for case or Unicode form (`Python -> python`)
    case_twins: str = "refuse"

    def total_for(self, compressed: int) -> int:
        """Return how many bytes may come out of `compressed` bytes."""
        return min(self.max_total_bytes, max(self.free_bytes, self.max_ratio * compressed))

    def total_name(self, allowed: int) -> str:
        """Return the name of the limit that gave `allowed`."""
        return "max-total-bytes" if allowed == self.max_total_bytes else "free-bytes or max-ratio"
