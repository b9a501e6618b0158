"""Check that a layer of an image changes no directory of the layers below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Final

from tasks_lib.archive import read_modes
from tasks_lib.errors import TreeError, escape_text
from tasks_lib.limits import Limits

_DIRECTORY: Final = "directory"


class LayerStack:
    """The entries of the layers that were added, the lowest one first.

    A directory that replaces a symlink such as `/lib` would hide what it leads to, and a directory with another mode
    would change `/tmp` or `/root` for every program. Files may replace files and symlinks.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        """Begin the stack of an image; `limits` are those for reading its layers."""
        self._name = name
        self._limits = limits._replace(control_names="keep")  # checked when the layers were made
        self._known: dict[bytes, tuple[str, int, str]] = {}  # path -> kind, mode and layer of the topmost entry

    def add(self, what: str, source: BinaryIO, check: Callable[[], None]) -> None:
        """Add the tar of a layer, described by `what` in messages.

        Raises:
            TreeError: it changes a directory of a lower layer.
            ArchiveError: it is not a tar.
            Exception: any exception raised by `check`.
        """
        for entry, mode in read_modes(source, name=f"{self._name}, {what}", limits=self._limits, check=check):
            self._put(what, entry.path, entry.kind, mode)

    def _put(self, what: str, path: bytes, kind: str, mode: int) -> None:
        below, old, owner = self._known.get(path, (kind, mode, what))
        if _DIRECTORY in (kind, below) and (kind, mode) != (below, old):
            now, was = (f"{kind} of mode {mode:04o}", f"mode {old:04o}") if kind == below else (kind, f"a {below}")
            raise TreeError(
                f"image {self._name}: {what} makes /{escape_text(path)} a {now}; {owner} has it as {was}",
                hint=f"set another `dest:`{', such as the directory it leads to' if below == 'symlink' else ''}",
            )
        self._known[path] = kind, mode, what
