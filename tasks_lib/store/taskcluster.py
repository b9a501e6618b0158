"""Artifacts of tasks that Taskcluster's index names, as a store that is only read.

The index has no digests as names, so the definitions say which task has what: the path of a fetch is under
`content.v1`, that of a toolchain under `toolchains.v3`. Content with a pinned digest is read and measured like that of
any store. A repacked archive or the output of a toolchain has no record here, only the artifact itself, which is used
if every result is believed (`store_trust=any`).
Source: Taskcluster, index service, `findArtifactFromTask`; taskcluster-lib-urls, `api`; taskgraph
`util/cached_tasks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import BinaryIO, Final, NoReturn
from urllib.parse import quote

from tasks_lib.errors import StoreRefusedError
from tasks_lib.store import EMPTY, Method, StoreAddress, StoredItem, StoreLocation
from tasks_lib.store.http import HttpStore
from tasks_lib.transport import Transport

_SCHEME: Final = "taskcluster+"


class TaskclusterStore(HttpStore):
    """The artifacts of indexed tasks of one trust domain and level; no credential is sent."""

    can_write = False  # tasks write their artifacts
    login_hint = "only public artifacts are read"

    def __init__(
        self, address: StoreAddress, transport: Transport, paths: Callable[[str, int], Mapping[str, str]]
    ) -> None:
        """Create the store without asking it.

        `paths` returns, for the trust domain and level, item key -> `NAMESPACE/artifacts/NAME`; it is called once.
        """
        super().__init__(address, transport)
        root, self._domain, level = address.url.removeprefix(_SCHEME).rsplit("/", 2)
        self._level, self._index, self._load = int(level), f"{root}/api/index/v1", paths

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        return self._load(self._domain, self._level)

    def may_hold(self, key: str) -> bool:
        """Return whether a definition names the artifact of a task for an item."""
        return key in self._paths

    def locate(self, method: Method, key: str) -> StoreLocation:
        """Return where the artifact of an item is; the index redirects to it. The empty blob is the index's `ping`.

        Raises:
            StoreRefusedError: no definition names an artifact for it.
        """
        del method  # the same for all
        if key == EMPTY:  # what a store is asked first
            return StoreLocation(f"{self._index}/ping")
        path = self._paths.get(key)
        if path is None:
            self._refuse(f"no definition names an artifact for {key[:20]}...")
        return StoreLocation(f"{self._index}/task/{quote(path)}")

    def find(self, key: str) -> StoredItem | None:
        """Return what the store says about an item, None if it does not hold it."""
        return super().find(key) if self.may_hold(key) else None

    def read(self, key: str, limit: int) -> bytes | None:
        """Return None: the store has no records, and no other small items are read."""
        del key, limit
        return None

    def put(self, key: str, file: BinaryIO, size: int) -> None:
        """Refuse to write."""
        del key, file, size
        self._refuse("it is only read")

    def delete(self, keys: Collection[str]) -> None:
        """Refuse to delete."""
        del keys
        self._refuse("it is only read")

    def _refuse(self, reason: str) -> NoReturn:
        raise StoreRefusedError(
            f"store {self.address.name}: {reason}", store=self.address.name, hint="use another store for this"
        )
