"""Files of this machine as sources: where a `file:` URL leads."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit


def is_at_hand(url: str) -> bool:
    """Whether this is the URL of a file of this machine that is there."""
    return url.lower().startswith("file:") and os.path.isfile(_path(url))  # noqa: PTH113  # False for a name too long


def opened(url: str) -> BinaryIO:
    """Open what a `file:` URL names.

    Raises:
        OSError: it cannot be read, or is a FIFO: it may have no writer, and would be waited for without end.
    """
    path = _path(url)
    if path.is_fifo():
        raise OSError(errno.EINVAL, "it is a FIFO")
    return path.open("rb")


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path, errors="surrogateescape"))
