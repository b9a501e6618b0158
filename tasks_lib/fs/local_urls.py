"""Local files as sources: `file:` URLs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from tasks_lib.errors import MissingFileError, TransportError
from tasks_lib.fs import files


def is_local_file(url: str) -> bool:
    """Whether `url` is a `file:` URL of an existing local file."""
    with contextlib.suppress(ValueError):
        return url.lower().startswith("file:") and os.path.isfile(_path(url))  # noqa: PTH113  # False for a name too long
    return False


@contextlib.contextmanager
def translate_read_errors() -> Iterator[None]:
    """Translate errors of reading a source, as distinct from errors of writing the cache.

    Raises:
        MissingFileError: the local file does not exist.
        TransportError: it cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"cannot read the file: {error.strerror}") from error
    except OSError as error:
        raise TransportError(f"cannot read the file: {error.strerror or error}") from error


def open_local(url: str) -> BinaryIO:
    """Open the regular file of a `file:` URL. A pipe could block forever, and a device has no end.

    Raises:
        MissingFileError: the file does not exist.
        TransportError: the path is not a regular file or a link to one.
    """
    try:
        path = _path(url)
        with translate_read_errors():
            return files.open_regular(Path(os.path.realpath(path, strict=True)))
    except ValueError as error:  # a NUL character, or an invalid URL
        raise TransportError("cannot read the file: its URL has no valid path") from error


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path, errors="surrogateescape"))
