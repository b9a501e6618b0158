"""Open the stores of a run from their addresses; decide from the variables of the CI whether the run writes to them.

That is a convention, not a security boundary: everyone who has the credential of a store can write to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tasks_lib.cache import Cache
from tasks_lib.errors import SettingError
from tasks_lib.network import TransportSettings, read_secret
from tasks_lib.store import Store, StoreAddress
from tasks_lib.store.directory import DirectoryStore
from tasks_lib.store.fleet import Counts, Fleet, StoreMember
from tasks_lib.store.http import HttpStore, store_settings
from tasks_lib.store.records import load_signing_key, load_trusted_keys
from tasks_lib.store.taskcluster import TaskclusterStore
from tasks_lib.store.upload import StoreWriter, Uploads
from tasks_lib.transport import Transport

#: Returns, for a trust domain and a level of Taskcluster, item key -> `NAMESPACE/artifacts/NAME`.
ArtifactPaths = Callable[[str, int], Mapping[str, str]]

_TOKEN: Final = "FETCH_STORE_TOKEN"
_SIGNING_KEY: Final = "FETCH_STORE_SIGNING_KEY"


def no_paths(_domain: str, _level: int) -> Mapping[str, str]:
    """Return no artifacts of tasks: there are no definitions."""
    return {}


class Opening(NamedTuple):
    """What the stores of a run are opened with.

    `trust` is "signed", "any", "none", or "" for "signed" if `keys` has a key and else "none". `write` is the setting
    `store_write`; `network` is "on" or "off". `connect` creates a transport, `paths` says which artifacts of tasks the
    definitions reach. `backlog` is the number of results that may wait until they are written.
    """

    addresses: tuple[StoreAddress, ...]
    settings: TransportSettings
    connect: Callable[[TransportSettings], Transport]
    environ: Mapping[str, str]
    cache: Cache
    keys: Path
    trust: str
    write: str
    network: str
    paths: ArtifactPaths
    backlog: int

    @property
    def verdict(self) -> Verdict:
        """Whether this run writes to its stores, and why."""
        return judge_write(self.write, self.environ)

    @property
    def effective_trust(self) -> str:
        """Whose results are used: "signed", "any" or "none"."""
        return self.trust or ("signed" if any(self.keys.glob("*.pub")) else "none")

    @property
    def unreachable(self) -> tuple[StoreAddress, ...]:
        """The stores that need the network, if it is off."""
        return tuple(one for one in self.addresses if one.scheme != "file" and self.network == "off")

    def members(self) -> list[StoreMember]:
        """Return the stores, without those that need the network if it is off."""
        hints = self.cache.blob_directory.top / "hints"
        members = []
        for one in self.addresses:
            if one not in self.unreachable:
                transport = self.connect(store_settings(self.settings, one))
                members.append(StoreMember(open_store(one, transport, self.environ, self.paths), hints))
        return members

    def writer(self, members: list[StoreMember], counts: Counts) -> StoreWriter:
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
        uploads = Uploads(self.writer(members, counts), self.backlog) if members and self.verdict.writes else None
        return Fleet(members, counts, trust=trust, keys=keys, uploads=uploads)


def open_store(
    address: StoreAddress, transport: Transport, environ: Mapping[str, str], paths: ArtifactPaths = no_paths
) -> Store:
    """Return one store; nothing is asked yet. `paths` says which artifacts of tasks the definitions reach.

    Raises:
        SettingError: the extra for this kind of store is not installed.
    """
    if address.scheme == "file":
        return DirectoryStore(address)
    if address.scheme in ("https", "http"):
        return HttpStore(address, transport, _bearer(address, environ))
    if address.is_bucket:
        return _open_bucket(address, transport)
    return TaskclusterStore(address, transport, paths)


def _open_bucket(address: StoreAddress, transport: Transport) -> Store:
    try:
        from tasks_lib.store.s3 import BucketStore  # an optional dependency
    except ImportError as error:
        reason = f"the store {address.url} needs the Python package `obstore`, which is not installed"
        raise SettingError(reason, hint="pip install 'doit-fetch[s3]'") from error
    return BucketStore(address, transport)


def _bearer(address: StoreAddress, environ: Mapping[str, str]) -> Callable[[], Mapping[str, str]]:
    """Return a function that returns the header with the token, when a request is made."""

    def headers() -> Mapping[str, str]:
        token = read_secret(environ, _TOKEN)
        return {"Authorization": f"Bearer {token}"} if token and address.is_private else {}

    return headers


# --- whether to write

#: The level of Taskcluster at which results are trusted. Source: taskgraph, `level` in the parameters of a decision.
_TRUSTED_LEVEL: Final = "3"


class Verdict(NamedTuple):
    """Whether to write, and why, as one clause for a message."""

    writes: bool
    reason: str


def judge_write(mode: str, environ: Mapping[str, str]) -> Verdict:
    """Return whether `store_write=MODE` (`auto`, `always` or `never`) writes in this environment.

    `auto` writes if each CI that the environment shows says that the ref is protected and the event is a push.
    """
    if mode != "auto":
        return Verdict(mode == "always", f"store_write={mode}")
    verdicts = [judge(environ) for is_present, judge in _SERVICES if is_present(environ)]
    if not verdicts:
        return Verdict(False, "no CI that reports protected refs is recognised")
    return next((verdict for verdict in verdicts if not verdict.writes), verdicts[0])


def _judge_push(service: str, event: str, protected: str, environ: Mapping[str, str]) -> Verdict:
    if environ.get(event) != "push":
        return Verdict(False, f"{service}: {event} is not push")
    if environ.get(protected) != "true":
        return Verdict(False, f"{service}: {protected} is not true")
    return Verdict(True, f"{service}: a push to a protected ref")


def _judge_taskcluster(environ: Mapping[str, str]) -> Verdict:
    """Source: taskgraph, `transforms/task.py`: MOZ_SCM_LEVEL is the level of the repository."""
    trusted = environ.get("MOZ_SCM_LEVEL") == _TRUSTED_LEVEL
    return Verdict(trusted, f"Taskcluster: MOZ_SCM_LEVEL is {'' if trusted else 'not '}{_TRUSTED_LEVEL}")


def _has(*names: str) -> Callable[[Mapping[str, str]], bool]:
    return lambda environ: any(environ.get(name) for name in names)


#: What shows that a CI runs this, and what judges its variables.
#: Source: GitHub Actions, "Variables reference": pull requests are other events, `pull_request_target` too. GitLab,
#: "Predefined CI/CD variables reference": CI_COMMIT_REF_PROTECTED alone does not suffice, because merge request 184658
#: would set it in the pipelines of merge requests whose source branch is protected.
_SERVICES: Final[tuple[tuple[Callable[[Mapping[str, str]], bool], Callable[[Mapping[str, str]], Verdict]], ...]] = (
    (
        _has("GITHUB_ACTIONS", "GITHUB_EVENT_NAME", "GITHUB_REF_PROTECTED"),
        partial(_judge_push, "GitHub", "GITHUB_EVENT_NAME", "GITHUB_REF_PROTECTED"),
    ),
    (
        _has("GITLAB_CI", "CI_PIPELINE_SOURCE", "CI_COMMIT_REF_PROTECTED"),
        partial(_judge_push, "GitLab", "CI_PIPELINE_SOURCE", "CI_COMMIT_REF_PROTECTED"),
    ),
    (_has("TASK_ID"), _judge_taskcluster),
)
