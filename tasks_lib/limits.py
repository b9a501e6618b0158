"""Limits and options for reading an archive.

They are separate from `archive`, so that reading settings does not load the decoders. Pure: no I/O.
"""

from __future__ import annotations

from tasks_lib.named import NamedTuple


class Limits(NamedTuple):
    """Limits, in bytes unless the name says otherwise, and options for reading an archive."""

    max_total_bytes: int = 50 << 30
    max_ratio: int = 200  # decompressed : compressed, applied above `free_bytes` of output
    free_bytes: int = 1 << 30
    max_member_bytes: int = 50 << 30
    max_entries: int = 1_000_000
    max_metadata_bytes: int = 1 << 20
    max_path_bytes: int = 4095
    max_component_bytes: int = 255
    max_names_bytes: int = 64 << 20  # paths and link targets of all entries together, implied directories included
    max_depth: int = 256  # components
    zstd_max_window_log: int = 27
    xz_memlimit_mib: int = 256
    #: "refuse", or "keep": create symlinks that point outside as they are (a sysroot's /lib -> /usr/lib); extraction
    #: never writes through a symlink
    outward_symlinks: str = "refuse"
    #: "refuse", or "keep": a symlink's name may differ from a directory's in case or Unicode form only
    #: (`Python -> python`)
    case_twins: str = "refuse"
    #: "refuse", or "ignore" bytes after the end of a compressed stream, of a tar or of a zip
    trailing: str = "refuse"
    #: "required", or "missing": a tar may end without an end-of-archive block
    end: str = "required"
    #: "refuse", or "last": of several entries with the same name, use the last one, as GNU tar does on extraction
    duplicates: str = "refuse"
    #: "refuse", or "keep" names and link targets with control characters other than NUL
    control_names: str = "refuse"
    #: "refuse", or "separator": the names in a zip use backslashes instead of slashes
    zip_backslash: str = "refuse"
    #: "refuse", or "ignore" bytes that belong to no member of a zip
    zip_prefix: str = "refuse"

    def max_total_for(self, compressed: int) -> int:
        """Return the largest decompressed size that is allowed for `compressed` bytes."""
        return min(self.max_total_bytes, max(self.free_bytes, self.max_ratio * compressed))

    def total_name(self, allowed: int) -> str:
        """Return the name of the limit that determined `allowed`."""
        if allowed == self.max_total_bytes:
            return "max-total-bytes"
        return "free-bytes" if allowed == self.free_bytes else "max-ratio"
