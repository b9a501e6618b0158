"""Files with public keys."""

from __future__ import annotations

from pathlib import Path

from tasks_lib.errors import SignatureError, escape_text
from tasks_lib.signature.packets import MAX_KEYS_BYTES
from tasks_lib.units import format_size


def read_key_file(path: str, field: str) -> bytes:
    """Return the content of a key file; `field` is the key of a definition that names it.

    Raises:
        SignatureError: it cannot be read, or is too large.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_KEYS_BYTES + 1)
    except OSError as error:
        raise SignatureError(
            f"cannot read key file {escape_text(path)}: {error.strerror or error}",
            hint=f"`{field}:` is relative to the root of the repository",
        ) from error
    if len(content) > MAX_KEYS_BYTES:
        raise SignatureError(f"key file {escape_text(path)} is larger than {format_size(MAX_KEYS_BYTES)}")
    return content
