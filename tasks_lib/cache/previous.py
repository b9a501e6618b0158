"""What the cache held before under the name of a definition: artifacts whose bytes once were right."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

#: Artifacts of one name that are looked at; each version of a definition leaves one or two.
_MAX_EARLIER: Final = 4


def earlier(root: Path, name: str) -> list[Path]:
    """Return the artifacts that were published as `name`, the newest first."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for path in (root / "artifacts" / name).glob("*/*"):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)[:_MAX_EARLIER]]
