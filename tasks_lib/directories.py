"""Directories as they are written in settings: `~/` is the user's home, and `user` the user's own cache.

This module is fast to import: `doit-fetch path` needs it for a path that is known.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

TYPE_CHECKING = False  # `typing` is slow to import
if TYPE_CHECKING:
    from typing import Any, Final

#: The word for the user's own cache, and the name of its directory.
USER: Final = "user"
_NAME: Final = "doit-fetch"


def expand_home(text: str, environ: Mapping[str, str]) -> str:
    """Return a path with the home directory instead of `~/`, as a shell does; unchanged if that is unknown."""
    home = environ.get("HOME", "")
    return home + text[1:] if home and text.startswith("~/") else text


def expand_cache(text: str, environ: Mapping[str, str]) -> str:
    """Return the directory of a cache as the setting names it; "" if `user` is asked for and no home is known.

    Source: XDG Base Directory Specification 0.8: a path in XDG_CACHE_HOME must be absolute, else it is ignored. Apple's
    File System Programming Guide: caches belong into ~/Library/Caches.
    """
    if text != USER:
        return expand_home(text, environ)
    home, own = environ.get("HOME", ""), environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(own):  # noqa: PTH117  # texts, not files
        return f"{own.rstrip('/')}/{_NAME}"
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return f"{home.rstrip('/')}/{caches}/{_NAME}" if os.path.isabs(home) else ""  # noqa: PTH117


def load_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML text.

    Raises:
        ValueError: it is not valid TOML.
    """
    import tomllib  # slow to import, needed only for a project with settings

    return tomllib.loads(text)
