"""Hints: files beside the store that only save time. Lost or wrong they do no harm, and their readers check them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_hint(path: Path, content: bytes) -> None:
    """Write a file in one step, so that nobody else can write it; a cache that refuses just does not help.

    What killed runs left of theirs goes; another process that is writing just now loses a hint.
    """
    asides = f".{path.name}."
    aside = path.with_name(asides + os.urandom(4).hex())
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208  # a name that begins so, and may hold any character
            if name.startswith(asides):
                path.with_name(name).unlink()
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
