"""Previous artifacts of a definition: files that an earlier version of it published."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

#: Most artifacts of one name that are returned; each version of a definition leaves one or two.
_MAX_EARLIER: Final = 4


def earlier(root: Path, name: str) -> list[Path]:
    """Return the artifacts that were published for definition `name`, newest first."""
    artifacts: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for path in (root / "artifacts" / name).glob("*/*"):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                artifacts.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(artifacts, reverse=True)[:_MAX_EARLIER]]
