"""A project whose Debian packages are resolved from a mirror, and the keys that sign it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.debian.lock import Lock, parse_lock
from tasks_lib.errors import DebianError, FetchError
from tasks_lib.pins.commits import Target
from tasks_lib.pins.update import Updated, UpdateRequest, update
from tests.debian_mirror import Deb, DebianMirror, write
from tests.keys import Keyring, keyring
from tests.origin import Origin
from tests.project import DODO, written
from tests.test_add import Project as AddProject

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not installed")

HELLO = Deb("hello", "1:2.0-1", depends="libhello (>= 1), common")
LIBRARY = Deb("libhello", "1.4", source="hello-libs (1.3)")
COMMON = Deb("common", architecture="all")
DEBS = (HELLO, LIBRARY, COMMON, Deb("other"))
LOCK = "fetchdefs/fetch/debs.lock"


def revoked(keys: Keyring) -> bytes:
    """Return the public key `revoked` with its revocation."""
    primary = keys.fingerprints("revoked")[0]
    text = (keys.home / "openpgp-revocs.d" / f"{primary}.rev").read_text().replace(":-----BEGIN", "-----BEGIN")
    with keyring() as other:
        other.gpg("--import", stdin=keys.public("revoked"))
        other.gpg("--import", stdin=text.encode())
        return other.public("revoked")


@dataclass
class Project:
    """A project with one definition, `debs`, of packages in a mirror."""

    mirror: DebianMirror
    origin: Origin

    def define(self, *, keys: tuple[str, ...] = ("archive",), more: str = "", **fields: Any) -> None:
        """Write the definition and the keys."""
        ring = self.mirror.keyring
        own: dict[str, Any] = {
            "type": "debian", "uri": self.mirror.url, "suites": ["stable"], "architectures": ["amd64"],
            "packages": ["hello"], "signed-by": [ring.fingerprints(name)[0] for name in keys],
            "key-files": [f"keys/{name}.gpg" for name in keys], "lock": "debs.lock",
        }  # fmt: skip
        own |= {name.replace("_", "-"): value for name, value in fields.items()}
        own = {name: value for name, value in own.items() if value is not None}
        text = json.dumps({"description": "packages", "fetch": own})
        written(Path(), {"fetchdefs/fetch/d.yml": f"debs: {text}\n{more}", "dodo.py": DODO})
        for name in keys:
            write(Path("keys", f"{name}.gpg"), ring.public(name))

    def update(self, **request: Any) -> Updated:
        """Update the definition."""
        workspace = AddProject(self.origin).workspace()
        return update(workspace, workspace.definitions.fetch("debs"), UpdateRequest(**request), Target())

    def refused(self, kind: type[FetchError], expected: str = "") -> str:
        """Return the message of an update that fails, and check that it leaves the lock as it was."""
        before = Path(LOCK).read_bytes() if Path(LOCK).exists() else b""
        with pytest.raises(kind) as error:
            self.update()
        assert type(error.value) is kind
        assert len(str(error.value).splitlines()) <= 3
        assert not issubclass(kind, DebianError) or f" [{kind.__name__}]" in str(error.value)
        assert expected in str(error.value)
        assert (Path(LOCK).read_bytes() if Path(LOCK).exists() else b"") == before
        return str(error.value)

    def packages(self) -> list[str]:
        """Return name and version of each package of the lock."""
        return [f"{one.package} {one.version}" for one in read().packages]


def read() -> Lock:
    """Return the lock."""
    return parse_lock(Path(LOCK).read_bytes(), LOCK)


@pytest.fixture(scope="module")
def keys() -> Iterator[Keyring]:
    """Yield the keys of these tests; `revoked` is revoked by `revoked()` only."""
    with keyring() as made:
        for name in ("archive", "second", "stranger", "revoked"):
            made.make(name)
        made.make("expired", at="20200101T000000", expires="1y")
        yield made


@pytest.fixture
def here(tmp_path: Path, keys: Keyring, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project in the current directory, and a mirror that is signed with the key `archive`."""
    top = tmp_path / "project"
    top.mkdir()
    monkeypatch.chdir(top)
    project = Project(DebianMirror(root=tmp_path / "mirror", keyring=keys), origin)
    project.mirror.publish(DEBS)
    project.define()
    return project


def release_of(here: Project, suite: str = "stable") -> Path:
    return here.mirror.root / "dists" / suite / "InRelease"


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
