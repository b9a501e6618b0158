"""Open the stores of a run from their addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.cache import Cache
from tasks_lib.network import TransportSettings, read_secret
from tasks_lib.store import Store, StoreAddress
from tasks_lib.store.directory import DirectoryStore
from tasks_lib.store.fleet import Counts, Fleet, Member
from tasks_lib.store.http import HttpStore, store_settings
from tasks_lib.store.records import load_signing_key, load_trusted_keys
from tasks_lib.store.upload import StoreWriter, Uploads
from tasks_lib.store.write_policy import Verdict, judge_write
from tasks_lib.transport import Transport

_TOKEN: Final = "FETCH_STORE_TOKEN"
_SIGNING_KEY: Final = "FETCH_STORE_SIGNING_KEY"


class Opening(NamedTuple):
    """What the stores of a run are opened with.

    `trust` is "signed", "any", "none", or "" for "signed" if `keys` has a key and else "none". `write` is the setting
    `store_write`; `network` is "on" or "off".
    """

    addresses: tuple[StoreAddress, ...]
    settings: TransportSettings
    environ: Mapping[str, str]
    cache: Cache
    keys: Path
    trust: str
    write: str
    network: str

    @property
    def verdict(self) -> Verdict:
        """Whether this run writes to its stores, and why."""
        return judge_write(self.write, self.environ)

    @property
    def effective_trust(self) -> str:
        """Whose results are used: "signed", "any" or "none"."""
        return self.trust or ("signed" if any(self.keys.glob("*.pub")) else "none")

    def members(self) -> list[Member]:
        """Return the stores, without those that need the network if it is off."""
        hints = self.cache.shelf.top / "hints"
        members = [Member(open_store(one, self.settings, self.environ), hints) for one in self.addresses]
        return [one for one in members if one.is_local or self.network == "on"]

    def writer(self, members: list[Member], counts: Counts) -> StoreWriter:
        """Return a writer to the stores.

        Raises:
            SettingError: the signing key is not usable.
        """
        given = self.environ.get(_SIGNING_KEY, "").strip()
        return StoreWriter(members, self.cache, load_signing_key(given) if given else None, counts)

    def fleet(self) -> Fleet:
        """Return the stores of a run.

        Raises:
            SettingError: a key or a credential is not usable, or an extra is not installed.
        """
        trust, members, counts = self.effective_trust, self.members(), Counts()
        keys = load_trusted_keys(self.keys) if trust == "signed" and members else None
        uploads = Uploads(self.writer(members, counts)) if members and self.verdict.writes else None
        return Fleet(members, counts, trust=trust, keys=keys, uploads=uploads)


def open_store(address: StoreAddress, settings: TransportSettings, environ: Mapping[str, str]) -> Store:
    """Return one store; nothing is asked yet.

    Raises:
        SettingError: the extra for this kind of store is not installed.
    """
    if address.scheme == "file":
        return DirectoryStore(address)
    transport = Transport(store_settings(settings, address), environ=environ)
    if address.scheme in ("https", "http"):
        return HttpStore(address, transport, _bearer(address, environ))
    raise NotImplementedError(address.scheme)


def _bearer(address: StoreAddress, environ: Mapping[str, str]) -> Callable[[], Mapping[str, str]]:
    """Return a function that returns the header with the token, when a request is made."""

    def headers() -> Mapping[str, str]:
        token = read_secret(environ, _TOKEN)
        return {"Authorization": f"Bearer {token}"} if token and address.is_private else {}

    return headers
