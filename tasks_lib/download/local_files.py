"""Files of this machine as sources: where a `file:` URL leads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from tasks_lib.errors import TransportError
from tasks_lib.fs import files


def is_at_hand(url: str) -> bool:
    """Whether this is the URL of a file of this machine that is there."""
    with contextlib.suppress(ValueError):
        return url.lower().startswith("file:") and os.path.isfile(_path(url))  # noqa: PTH113  # False for a name too long
    return False


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Say that the source is at fault; a cache that cannot be written is another matter.

    Raises:
        TransportError: a local file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise TransportError(f"cannot read the file: {error.strerror or error}") from error


def open_local(url: str) -> BinaryIO:
    """Open the file of a `file:` URL; a pipe may hold us for ever, and a device has no end.

    Raises:
        TransportError: it is no regular file, nor a link to one.
    """
    try:
        path = _path(url)
        with readable():
            return files.open_regular(Path(os.path.realpath(path, strict=True)))
    except ValueError as error:  # a NUL, or what is no URL
        raise TransportError("cannot read the file: its URL names no path") from error


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path, errors="surrogateescape"))
