"""What prune, verify and `doit cache` do to the files of a cache; what they decide is decided above.

Internal to the store, but for what `Store.upkeep` gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks_lib.progress import Progress
from tasks_lib.store import files, naming, results, usage
from tasks_lib.store.locks import locked
from tasks_lib.store.quarantine import Quarantine
from tasks_lib.store.shelf import Shelf
from tasks_lib.store.survey import Item, discard, survey

RemoveTree = Callable[[Path], None]


class Upkeep:
    """The upkeep of one cache directory."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._root, self._options = shelf.root, shelf.options

    def items(self) -> list[Item]:
        """Return everything that lies in the cache.

        Raises:
            StoreUnavailableError: others can write it.
        """
        return list(survey(self._shelf.top.parent))

    def inspect(self, item: Item, progress: Progress) -> str:
        """Read a blob or a result whatever is remembered of it; return what is wrong, "" for nothing.

        What is wrong goes to quarantine.

        Raises:
            StoreUnavailableError: the system refuses to read it.
            CancelledError: the run was asked to stop.
        """
        path = Path(item.path)
        if item.kind == "blob":
            return self._shelf.inspect(path, progress)
        try:
            results.read(path, item.name, self._options.trust)
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, files.NotRegularError):
                raise files.unusable(path, error) from error
            self.set_aside(path, f"no result: {error}")
            return str(error)
        return ""

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a damaged file, of the cache or of an extracted tree, to quarantine; one that cannot go stays."""
        directory = self._shelf.top / "quarantine"
        aside = directory / f"{path.name[:100]}.{naming.scratch_name()}"
        with contextlib.suppress(OSError):
            files.make_directory(directory, self._root)
            path.rename(aside)
            files.append_text(aside.with_name(f"{aside.name}.reason"), ascii(reason)[1:-1] + "\n", "longer")
        Quarantine(directory).shrink(aside)

    @contextlib.contextmanager
    def pruning(self, progress: Progress) -> Iterator[Callable[[Item, RemoveTree], str]]:
        """Give what takes a thing away and returns why it stays, "" when it went; no run starts meanwhile.

        Raises:
            StoreUnavailableError: another prune holds the cache for too long, or it is read-only.
            CancelledError: the run was asked to stop while waiting.
        """
        gate = self._shelf.top / "locks" / "prune"
        with files.translated(gate):
            files.make_directory(gate.parent, self._root)
        with locked(gate, timeout_s=self._options.lock_timeout_s, progress=progress):
            yield lambda item, remove_tree: discard(item, self._root, remove_tree)
            left = [item for item in self.items() if item.kind in ("blob", "tree")]
            self._shelf.memo.keep_only(frozenset(item.name for item in left if item.kind == "blob"))
            names = frozenset(item.name for item in left)
            uses = {name: when for name, when in self.last_uses().items() if name in names}
            usage.compact(self._shelf.top, uses)

    def last_uses(self) -> dict[str, int]:
        """Return hex digest -> when it was last used, as far as that is later than when it was written."""
        return usage.last_uses(self._shelf.top)

    def runs(self) -> list[tuple[int, int, int]]:
        """Return (when, found here, obtained) of the runs that are remembered, oldest first."""
        return usage.runs(self._shelf.top)

    def definitions(self) -> dict[Path, Path]:
        """Return note -> definitions directory of everybody who used this cache."""
        return usage.definitions(self._shelf.top)
