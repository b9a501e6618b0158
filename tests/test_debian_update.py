"""`doit update` of Debian packages: apt resolves them from indexes whose signatures and digests were verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.debian.lock import Lock, parse_lock
from tasks_lib.errors import (
    AllSourcesFailedError,
    EditError,
    FetchError,
    IndexDigestError,
    LockMismatchError,
    ReleaseRolledBackError,
    ReleaseSignatureError,
    SignatureError,
    ToolError,
    UnresolvableError,
    UnsafePathError,
)
from tasks_lib.pins.commits import Target
from tasks_lib.pins.update import Updated, UpdateRequest, update
from tests.debian_mirror import DATE, Deb, DebianMirror, pack, write
from tests.keys import Keyring, keyring
from tests.origin import Origin, reply
from tests.project import PORCH, ROOT, doit, written
from tests.test_add import Project as AddProject

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not installed")

HELLO = Deb("hello", "1:2.0-1", depends="libhello (>= 1), common")
LIBRARY = Deb("libhello", "1.4", source="hello-libs (1.3)")
COMMON = Deb("common", architecture="all")
DEBS = (HELLO, LIBRARY, COMMON, Deb("other"))
LOCK = "fetchdefs/fetch/debs.lock"


@pytest.fixture(scope="module")
def keys() -> Iterator[Keyring]:
    """Yield the keys of these tests; the revocation of `revoked` is imported after it signed."""
    with keyring() as made:
        for name in ("archive", "second", "stranger", "revoked"):
            made.make(name)
        made.make("expired", at="20200101T000000", expires="1y")
        yield made


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
        text = json.dumps({"description": "packages", "fetch": own})
        written(Path(), {"fetchdefs/fetch/d.yml": f"debs: {text}\n{more}", "dodo.py": PORCH})
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
        assert expected in str(error.value)
        assert (Path(LOCK).read_bytes() if Path(LOCK).exists() else b"") == before
        return str(error.value)

    def packages(self) -> list[str]:
        """Return name and version of each package of the lock."""
        return [f"{one.package} {one.version}" for one in read().packages]


def read() -> Lock:
    return parse_lock(Path(LOCK).read_bytes(), LOCK)


@pytest.fixture
def here(tmp_path: Path, keys: Keyring, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project and a mirror that is signed with the key `archive`."""
    top = tmp_path / "project"
    top.mkdir()
    monkeypatch.chdir(top)
    project = Project(DebianMirror(root=tmp_path / "mirror", keyring=keys), origin)
    project.mirror.publish(DEBS)
    project.define()
    return project


# --- what a lock has ----------------------------------------------------------------------------


@needs_apt
def test_an_update(here: Project) -> None:
    """An update locks the packages with their dependencies and the indexes; then the definition can be fetched."""
    made = doit(Path(), "update", "debs")
    assert (made.returncode, made.stdout.splitlines()[:2]) == (
        0,
        ["debs: updated ? -> 2026-11-01T08:30:00Z", "  packages: 3, 3 added"],
    )
    text, lock = Path(LOCK).read_bytes(), read()
    assert here.packages() == ["common 1.0", "hello 1:2.0-1", "libhello 1.4"]
    hello, library = lock.packages[1:]
    assert (hello.path, hello.size, hello.sha256) == (
        "pool/main/h/hello/hello_2.0-1_amd64.deb",
        len(HELLO.content),
        hashlib.sha256(HELLO.content).hexdigest(),
    )
    assert (hello.source, library.source, library.architecture, lock.packages[0].architecture) == (
        ("hello", "hello-libs", "amd64", "all")
    )
    release = lock.releases[0]
    inrelease = Path(here.mirror.root, "dists/stable/InRelease").read_bytes()
    assert (release.suite, release.codename, release.date) == ("stable", "bookworm", "2026-11-01T08:30:00Z")
    assert (release.inrelease.size, release.inrelease.sha256) == (len(inrelease), hashlib.sha256(inrelease).hexdigest())
    assert release.signers == (here.mirror.keyring.fingerprints("archive")[0],)
    assert [index.path for index in release.indexes] == ["main/binary-amd64/Packages.xz"]
    again = doit(Path(), "update", "debs")
    assert (again.returncode, again.stdout, Path(LOCK).read_bytes()) == (0, "debs: unchanged\n", text)
    fetched = doit(Path(), "fetch:debs")
    assert fetched.returncode == 0, fetched.stdout


@needs_apt
@pytest.mark.slow
def test_a_lock_does_not_depend_on_the_machine(here: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mirror gives the same bytes in another directory, locale and time zone, with an empty cache."""
    here.define(uri="file:../../../mirror")
    here.update()
    text = Path(LOCK).read_bytes()
    assert str(tmp_path).encode() not in text
    other = tmp_path / "another place" / "deep"
    shutil.copytree("fetchdefs", other / "fetchdefs")
    shutil.copytree("keys", other / "keys")
    shutil.copytree(here.mirror.root, other.parent / "mirror")
    monkeypatch.chdir(other)
    Path(LOCK).unlink()
    strange = tmp_path / 'a "temporary" directory'
    strange.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(strange))
    for name, value in {"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "de", "TZ": "Asia/Tokyo"}.items():
        monkeypatch.setenv(name, value)
    here.update()
    assert Path(LOCK).read_bytes() == text


@needs_apt
def test_newer_packages(here: Project) -> None:
    """A newer state of the suite changes the lines of the packages that changed; `--dry-run` writes nothing."""
    here.update()
    before = Path(LOCK).read_text()
    newer = dataclasses.replace(LIBRARY, version="1.5")
    here.mirror.publish([HELLO, newer, COMMON, Deb("other")], date=DATE + timedelta(days=1))
    shown = here.update(mode="dry-run")
    assert (shown.state, shown.changes, Path(LOCK).read_text()) == (
        "updated",
        {"libhello:amd64": ("1.4", "1.5")},
        before,
    )
    done = here.update()
    assert (done.before, done.after) == ("2026-11-01T08:30:00Z", "2026-11-02T08:30:00Z")
    changed = [line for line in done.diff.splitlines() if line.startswith(("-  {", "+  {")) and '"package"' in line]
    assert [line[0] for line in changed] == ["-", "+"]
    assert here.packages()[2] == "libhello 1.5"


@needs_apt
def test_essential_packages(here: Project) -> None:
    """Essential packages are locked when the definition asks for them, with what they need."""
    here.mirror.publish([*DEBS, Deb("base", essential=True, depends="dash"), Deb("dash")])
    here.update()
    assert here.packages() == ["common 1.0", "hello 1:2.0-1", "libhello 1.4"]
    here.define(essential=True, packages=["other"])
    here.update()
    assert here.packages() == ["base 1.0", "dash 1.0", "other 1.0"]


@needs_apt
@pytest.mark.slow
def test_recommended_packages(here: Project) -> None:
    """Recommended and suggested packages are not locked."""
    here.mirror.publish([*DEBS, Deb("tool", more="Recommends: hello\nSuggests: other\n")])
    here.define(packages=["tool"])
    here.update()
    assert here.packages() == ["tool 1.0"]


@needs_apt
def test_two_versions_of_a_package(here: Project) -> None:
    """Of two versions in an index the newest one is locked, or the one that the definition names."""
    older = Deb("hello", "1:1.9", depends="libhello")
    here.mirror.publish([older, *DEBS])
    here.update()
    assert "hello 1:2.0-1" in here.packages()
    here.define(packages=["hello=1:1.9"])
    here.update()
    assert here.packages() == ["hello 1:1.9", "libhello 1.4"]


@needs_apt
@pytest.mark.slow
def test_one_version_with_two_contents(here: Project) -> None:
    """If two suites have the same version with other bytes, the lock has the bytes of the suite that it names."""
    twin = dataclasses.replace(LIBRARY, files={"usr/lib/x": b"other"}, path="pool/updates/main/libhello.deb")
    here.mirror.publish([twin], suite="stable-updates", codename="bookworm-updates")
    here.define(suites=["stable", "stable-updates"])
    here.update()
    one = read().packages[2]
    expected = twin if one.release == "stable-updates" else LIBRARY
    assert (one.path, one.sha256) == (expected.pool, hashlib.sha256(expected.content).hexdigest())


@needs_apt
def test_several_suites(here: Project, tmp_path: Path) -> None:
    """The newest version of all suites is locked, each suite with its own URI; a backport needs a request."""
    security = DebianMirror(root=tmp_path / "security", keyring=here.mirror.keyring)
    fixed = dataclasses.replace(LIBRARY, version="1.4+fix", path="pool/updates/main/libhello.deb")
    security.publish([fixed], suite="stable-security", codename="bookworm-security")
    backports = dataclasses.replace(
        here.mirror, release=lambda text: f"NotAutomatic: yes\nButAutomaticUpgrades: yes\n{text}"
    )
    backports.publish([Deb("hello", "3.0")], suite="stable-backports", codename="bookworm-backports")
    uris = {"stable": here.mirror.url, "stable-backports": here.mirror.url, "stable-security": security.url}
    here.define(suites=list(uris), uri=uris)
    here.update()
    assert here.packages() == ["common 1.0", "hello 1:2.0-1", "libhello 1.4+fix"]
    assert [one.release for one in read().packages] == ["stable", "stable", "stable-security"]
    assert [one.suite for one in read().releases] == ["stable", "stable-backports", "stable-security"]
    assert read().packages[2].path == "pool/updates/main/libhello.deb"
    here.mirror.publish(
        [Deb("backported", "3.0", depends="hello")], suite="stable-backports", codename="bookworm-backports"
    )
    here.define(suites=["stable", "stable-backports"], packages=["backported=3.0"])
    here.update()
    assert "backported 3.0" in here.packages()


@needs_apt
@pytest.mark.slow
def test_several_architectures(here: Project) -> None:
    """Each architecture is resolved on its own; a package of all architectures is locked once."""
    arm = [dataclasses.replace(deb, architecture="arm64") for deb in (HELLO, LIBRARY)]
    here.mirror.publish([*DEBS, *arm], architectures=["amd64", "arm64"])
    here.define(architectures=["arm64", "amd64"])
    here.update()
    assert [(one.package, one.architecture) for one in read().packages] == [
        ("common", "all"), ("hello", "amd64"), ("hello", "arm64"), ("libhello", "amd64"), ("libhello", "arm64"),
    ]  # fmt: skip
    assert [index.path for index in read().releases[0].indexes] == [
        "main/binary-amd64/Packages.xz",
        "main/binary-arm64/Packages.xz",
    ]


#: Places and packings of indexes, in addition to the two that differ most.
MORE_PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("no", (".gz", "")), ("no", (".xz", ".gz")), ("also", ("",)), ("also", (".gz", "")), ("only", ("",)),
)  # fmt: skip


@needs_apt
@pytest.mark.parametrize(
    ("by_hash", "packings"),
    [("only", (".xz", ".gz")), ("no", ("",)), *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE_PLACES)],
)
def test_places_and_packings_of_indexes(here: Project, by_hash: Any, packings: tuple[str, ...]) -> None:
    """Indexes are found at their name and at that of their digest, packed or not."""
    shutil.rmtree(here.mirror.root)
    dataclasses.replace(here.mirror, by_hash=by_hash, packings=packings).publish(DEBS)
    here.update()
    assert here.packages() == ["common 1.0", "hello 1:2.0-1", "libhello 1.4"]
    best = min(packings, key=[".xz", ".gz", ""].index)
    assert read().releases[0].indexes[0].path == f"main/binary-amd64/Packages{best}"


@needs_apt
@pytest.mark.parametrize(
    "path",
    [
        "pool/main/hello_1%3a2.0-1_amd64.deb",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("pool/main/a b+c~d.deb", "hello.deb", "./hello.deb")),
    ],
)
def test_file_names(here: Project, path: str) -> None:
    """Paths of packages are kept as the index has them, and are requested with a percent as `%25`."""
    here.mirror.publish([dataclasses.replace(HELLO, path=path), LIBRARY, COMMON])
    served(here)
    here.define(uri=here.origin.url)
    here.update()
    assert read().packages[1].path == path.removeprefix("./")
    fetched = doit(Path(), "fetch:debs")
    assert fetched.returncode == 0, fetched.stdout


def served(here: Project, below: str = "") -> None:
    """Serve the mirror over HTTP."""
    for path in here.mirror.root.rglob("*"):
        if path.is_file():
            name = path.relative_to(here.mirror.root).as_posix()
            here.origin.answers[f"{below}/{quoted(name)}"] = reply(path.read_bytes())


def quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name)


@needs_apt
def test_mirrors(here: Project) -> None:
    """A group of mirrors is asked in order; the lock names the group."""
    served(here, "/live")
    here.define(uri="mirror://debian/")
    Path("fetchdefs/mirrors.yml").write_text(
        f"groups: {{debian: {{urls: ['{here.origin.url}/dead/', '{here.origin.url}/live/']}}}}\n"
    )
    here.update()
    assert read().releases[0].uri == "mirror://debian/"
    assert here.packages() == ["common 1.0", "hello 1:2.0-1", "libhello 1.4"]


@needs_apt
@pytest.mark.slow
def test_a_snapshot(here: Project) -> None:
    """A definition with `snapshot` is resolved at that time, also if its lock is newer."""
    here.update()
    older = dataclasses.replace(HELLO, version="1:1.0")
    below = here.mirror.root / "20261001T000000Z"
    snapshot = dataclasses.replace(here.mirror, root=below)
    snapshot.publish([older, LIBRARY, COMMON], date=DATE - timedelta(days=40))
    here.define(snapshot="20261001T000000Z")
    here.update()
    assert "hello 1:1.0" in here.packages()
    shutil.rmtree(here.mirror.root / "dists")
    here.define(snapshot="20261001T000000Z", snapshots=f"{here.mirror.url}/@SNAPSHOTID@/")
    assert here.update().state == "unchanged"
    snapshot.publish([older, LIBRARY, COMMON], date=DATE - timedelta(days=50))
    here.refused(ReleaseRolledBackError)


@needs_apt
def test_a_configuration_of_the_system_does_not_matter(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the configuration nor the state of the system is read by apt."""
    write(Path("apt.conf"), b'APT::Install-Recommends "true"; Dir "/nonexistent"; APT::Architecture "arm64";')
    monkeypatch.setenv("APT_CONFIG", str(Path("apt.conf").absolute()))
    here.update()
    assert here.packages() == ["common 1.0", "hello 1:2.0-1", "libhello 1.4"]


@needs_apt
@pytest.mark.slow
def test_an_old_suite(here: Project) -> None:
    """A suite that should have been replaced is used, with a warning; a snapshot is meant to be old."""
    old = dataclasses.replace(here.mirror, release=lambda text: f"Valid-Until: Mon, 02 Nov 2026 08:30:00 UTC\n{text}")
    old.publish(DEBS)
    shown = doit(Path(), "update", "debs").stdout
    assert "debs: the suite stable was valid until Mon, 02 Nov 2026 08:30:00 UTC" in shown
    shutil.copytree(here.mirror.root / "dists", here.mirror.root / "20261101T120000Z/dists")
    here.define(snapshot="20261101T120000Z")
    shown = doit(Path(), "update", "debs").stdout
    assert "valid until" not in shown
    assert "debs: updated" in shown


@needs_apt
@pytest.mark.parametrize(
    ("fields", "codename", "date"),
    [
        ("Codename: my repository\n", "stable", "2026-11-01T08:30:00Z"),
        ("", "stable", "2026-11-01T08:30:00Z"),
        ("Date: Sun, 01 Nov 0926 10:30:00 +0200\n", "stable", "0926-11-01T08:30:00Z"),
    ],
)
def test_fields_of_a_release(here: Project, fields: str, codename: str, date: str) -> None:
    """A suite without a usable codename has its own name; dates are in UTC, with four digits of the year."""

    def release(text: str) -> str:
        kept = [
            line for line in text.splitlines(keepends=True) if not line.startswith(("Codename:", fields[:5] or "-"))
        ]
        return fields + "".join(kept)

    dataclasses.replace(here.mirror, release=release).publish(DEBS)
    here.update()
    assert (read().releases[0].codename, read().releases[0].date) == (codename, date)


# --- signatures ---------------------------------------------------------------------------------


@needs_apt
def test_several_signers(here: Project) -> None:
    """One good signature by a pinned key suffices; the lock names the pinned keys that signed."""
    dataclasses.replace(here.mirror, signer="stranger archive").publish(DEBS)
    here.update()
    assert read().releases[0].signers == (here.mirror.keyring.fingerprints("archive")[0],)
    dataclasses.replace(here.mirror, signer="second archive").publish(DEBS)
    here.define(keys=("archive", "second"))
    here.update()
    both = sorted(here.mirror.keyring.fingerprints(name)[0] for name in ("archive", "second"))
    assert list(read().releases[0].signers) == both


@needs_apt
def test_a_key_that_expired_later(here: Project) -> None:
    """A key that was valid at the date of the Release file may have expired since."""
    options = ("--faked-system-time", "20200601T000000")
    old = dataclasses.replace(here.mirror, signer="expired", options=options)
    old.publish(DEBS, date=datetime(2020, 6, 1, tzinfo=UTC))
    here.define(keys=("expired",))
    here.update()
    assert read().releases[0].date == "2020-06-01T00:00:00Z"
    old.publish(DEBS, date=datetime(2021, 6, 1, tzinfo=UTC))
    here.refused(ReleaseSignatureError, "expired on 2020-12-31, before the date 2021-06-01 of the file")


def release_of(here: Project, suite: str = "stable") -> Path:
    return here.mirror.root / "dists" / suite / "InRelease"


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def publish(here: Project, **changes: Any) -> None:
    dataclasses.replace(here.mirror, **changes).publish(DEBS)


def wrong_suite(here: Project) -> None:
    here.mirror.publish(DEBS, suite="oldstable", codename="bullseye")
    shutil.copy(release_of(here, "oldstable"), release_of(here))


def revoke(here: Project) -> None:
    publish(here, signer="revoked")
    here.define(keys=("revoked",))
    write(Path("keys/revoked.gpg"), revoked(here.mirror.keyring))


def expire(here: Project) -> None:
    publish(here, signer="expired", options=("--faked-system-time", "20200601T000000"))
    here.define(keys=("expired",))


def sign_with_another(here: Project) -> None:
    publish(here, signer="stranger")
    here.define(key_files=["keys/archive.gpg", "keys/stranger.gpg"])
    write(Path("keys/stranger.gpg"), here.mirror.keyring.public("stranger"))


def sign_as_binary(here: Project) -> None:
    ring, path = here.mirror.keyring, release_of(here)
    path.write_bytes(ring.gpg("--local-user", "archive", "--sign", stdin=b"Suite: stable\n"))


def unsign(here: Project) -> None:
    lines = release_of(here).read_bytes().partition(b"-----BEGIN PGP SIGNATURE")[0].split(b"\n\n", 1)
    release_of(here).write_bytes(lines[1])


def surround(here: Project) -> None:
    release_of(here).write_bytes(b"Suite: stable\n" + release_of(here).read_bytes())


def append(here: Project) -> None:
    release_of(here).write_bytes(release_of(here).read_bytes() * 2)


def twice(here: Project) -> None:
    publish(here, release=lambda text: text.replace("Suite: stable\n", "Suite: stable\nSuite: other\n"))


ATTACKS: dict[str, tuple[Callable[[Project], object], str]] = {
    "unsigned": (unsign, "is not signed"),
    "no InRelease": (lambda here: release_of(here).unlink(), "the suite stable is not signed"),
    "empty": (lambda here: release_of(here).write_bytes(b""), "is not signed"),
    "another form of signature": (sign_as_binary, "is not signed"),
    "a changed text": (lambda here: change(release_of(here), b"Origin: Tests", b"Origin: Tasts"), "does not match"),
    "text before": (surround, "is not signed"),
    "two texts": (append, "is not signed"),
    "a wrong key": (lambda here: publish(here, signer="stranger"), "is not in the key file"),
    "an expired key": (expire, "expired on 2020-12-31, before the date 2026-11-01"),
    "a revoked key": (revoke, "has been revoked"),
    "a key that is not pinned": (sign_with_another, "expected a signature by the pinned key"),
    "a weak digest": (lambda here: publish(here, options=("--digest-algo", "SHA1")), "weak digest SHA-1"),
    "another suite": (wrong_suite, "expected the suite stable, found oldstable or bullseye"),
    "a field twice": (twice, "the field 'Suite' occurs twice"),
    "no date": (lambda here: publish(here, release=lambda text: text.replace("Date:", "Dote:")), "invalid date"),
    "no digests": (lambda here: publish(here, release=lambda text: text.partition("SHA256")[0]), "lists no SHA256"),
    "a strange digest": (lambda here: publish(here, release=lambda text: text.replace(" main/", " x main/", 1)), "invalid line"),
    "no key file": (lambda _here: shutil.rmtree("keys"), "cannot read key file keys/archive.gpg"),
    "a key file without the key": (
        lambda here: write(Path("keys/archive.gpg"), here.mirror.keyring.public("second")), "is not in the key file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_a_release(here: Project, attack: str) -> None:
    """A Release file that is not signed as required is refused, whatever it says; the lock stays as it is."""
    attacked, expected = ATTACKS[attack]
    write(Path(LOCK), b"")
    Path(LOCK).unlink()
    attacked(here)
    here.refused(ReleaseSignatureError, expected)


def test_a_release_error_is_a_signature_error() -> None:
    """Callers that handle refused signatures handle those of Release files, too."""
    assert issubclass(ReleaseSignatureError, SignatureError)
    assert issubclass(ReleaseRolledBackError, SignatureError)


@needs_apt
def test_a_roll_back(here: Project) -> None:
    """An older, correctly signed state is refused; the same one and a newer one are not."""
    here.update()
    here.mirror.publish(DEBS, date=DATE - timedelta(seconds=1))
    text = here.refused(ReleaseRolledBackError)
    assert "expected 2026-11-01T08:30:00Z or later, found 2026-11-01T08:29:59Z" in text
    here.define(packages=["other"])  # a stale lock knows how old a suite may be, too
    here.refused(ReleaseRolledBackError)
    here.mirror.publish(DEBS, date=DATE)
    assert here.update().state == "updated"


@needs_apt
def test_a_damaged_lock(here: Project) -> None:
    """A lock that cannot be read is not replaced, because a roll-back would not be noticed."""
    here.update()
    change(Path(LOCK), b'"version": 1\n', b'"version": 1\n<<<<<<<')
    here.refused(LockMismatchError, "restore it, or delete it")


# --- indexes ------------------------------------------------------------------------------------

INDEX = "dists/stable/main/binary-amd64/"


def each_index(here: Project, work: Callable[[Path], object]) -> None:
    for path in Path(here.mirror.root, INDEX).rglob("*"):
        if path.is_file():
            work(path)


def swap(path: Path) -> None:
    """Replace an index with another one of the same size, if it is not packed."""
    text = Deb("hello", "9.9").paragraph.encode()
    path.write_bytes(pack(text, path.suffix if path.suffix in (".xz", ".gz") else ""))


BROKEN: dict[str, Callable[[Path], object]] = {
    "swapped": swap,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "same size": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"#"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_attack_on_an_index(here: Project, case: str) -> None:
    """An index that is not the one of the Release file is refused, wherever the mirror has it."""
    each_index(here, BROKEN[case])
    here.refused(IndexDigestError, "main/binary-amd64/Packages.xz")


def test_a_missing_index(here: Project) -> None:
    """A mirror without an index is an error of the mirror, not an attack."""
    each_index(here, Path.unlink)
    with pytest.raises(FetchError) as error:
        here.update()
    assert not isinstance(error.value, IndexDigestError)


@needs_apt
@pytest.mark.parametrize(
    ("old", "new", "kind", "expected"),
    [
        ("Filename: pool/", "Filename: ../pool/", UnsafePathError, "unsafe path '../pool/"),
        pytest.param("Filename: pool/", "Filename: /pool/", UnsafePathError, "is absolute", marks=pytest.mark.slow),
        pytest.param("Filename: pool/main/", "Filename: pool/../../", UnsafePathError, "'..'", marks=pytest.mark.slow),
        pytest.param("Filename: pool/", "Filename: pool\\", UnsafePathError, "backslash", marks=pytest.mark.slow),
        ("_amd64.deb", "_amd64/Release", UnresolvableError, "without a .deb: Release"),
        ("SHA256: ", "SHA256: zz", UnresolvableError, "without a SHA256 or without a .deb: hello_1.0_amd64.deb"),
        pytest.param("Size: ", "Size: 99999999999999999999", IndexDigestError, "size", marks=pytest.mark.slow),
        ("Maintainer: ", "Version: 9\nMaintainer: ", IndexDigestError, "occurs twice"),
    ],
)  # fmt: skip
def test_a_hostile_paragraph(here: Project, old: str, new: str, kind: type[FetchError], expected: str) -> None:
    """A signed index is not trusted to have only safe paths and valid fields."""

    class Hostile(Deb):
        @property
        def paragraph(self) -> str:
            text = super().paragraph
            assert old in text
            return text.replace(old, new)

    bad = Hostile("hello", "1.0")
    mirror = here.mirror
    text = f"{bad.paragraph}\n{COMMON.paragraph}".encode()
    mirror.publish_files(
        {"main/binary-amd64/Packages": text},
        "stable",
        "Suite: stable\nDate: Sun, 01 Nov 2026 08:30:00 UTC\nArchitectures: amd64\nComponents: main\n",
    )
    here.refused(kind, expected)


# --- apt ----------------------------------------------------------------------------------------


@needs_apt
@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        (["hallo"], "Unable to locate package hallo"),
        (["hello=9"], "Version '9' for 'hello' was not found"),
        (["broken"], "broken : Depends: nowhere"),
        (["one", "two"], "Conflicts"),
    ],
)
def test_packages_that_cannot_be_resolved(here: Project, packages: list[str], expected: str) -> None:
    """The message has apt's sentence."""
    more = [Deb("broken", depends="nowhere"), Deb("one", more="Conflicts: two\n"), Deb("two")]
    here.mirror.publish([*DEBS, *more])
    here.define(packages=packages)
    here.refused(UnresolvableError, expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"components": ["contrib"]},
            "no index of contrib for amd64\nit has the components main and the architectures",
        ),
        ({"architectures": ["riscv64"]}, "no index of main for riscv64"),
    ],
)
def test_what_a_suite_lacks(here: Project, fields: dict[str, Any], expected: str) -> None:
    """A component or architecture that the suite does not have is named, with those that it has."""
    here.define(**fields)
    here.refused(UnresolvableError, expected)


@pytest.mark.parametrize("missing", ["gpg", "apt-get"])
def test_a_missing_program(here: Project, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not installed is named."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gpg", "gpgconf", "gpg-agent"):
        if name != missing:
            (programs / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(programs))
    here.refused(ToolError, f"{missing} is not installed")


@pytest.mark.parametrize("request_", [{"to": "1.0"}, {"url": "https://example.org/"}])
def test_options_for_other_definitions(here: Project, request_: dict[str, str]) -> None:
    """Packages have no URL and no version of their own."""
    with pytest.raises(EditError, match="neither a URL nor a version"):
        here.update(**request_)


def test_a_blocked_mirror(here: Project) -> None:
    """A host that mirrors.yml blocks is not asked, and the message says why."""
    here.define(uri=here.origin.url)
    Path("fetchdefs/mirrors.yml").write_text("block: [127.0.0.1]\n")
    with pytest.raises(AllSourcesFailedError, match=r"127\.0\.0\.1 is blocked by mirrors\.yml"):
        here.update()
    assert here.origin.requests == []


def test_a_dead_mirror(here: Project) -> None:
    """A mirror that does not answer is not called unsigned."""
    here.define(uri="http://127.0.0.1:1/debian")
    with pytest.raises(FetchError) as error:
        here.update()
    assert not isinstance(error.value, SignatureError)


@needs_apt
@pytest.mark.slow
def test_the_command(here: Project) -> None:
    """The JSON of the command names each package that changed; a failure has status 1, without a traceback."""
    done = doit(Path(), "update", "debs", "--format=json")
    found = json.loads(done.stdout)
    assert (found[0]["status"], found[0]["to"]) == ("updated", "2026-11-01T08:30:00Z")
    assert found[0]["changes"]["hello:amd64"] == {"old": "", "new": "1:2.0-1"}
    release_of(here).write_bytes(b"")
    done = doit(Path(), "update", "--all")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("debs: InRelease of stable: the text is not signed")


@needs_apt
@pytest.mark.slow
def test_the_lock_of_the_sample(tmp_path: Path) -> None:
    """The committed lock of the sample is what an update writes."""
    for name in ("dodo.py", "fetchdefs"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    assert doit(tmp_path, "update", "greeter-packages").stdout.splitlines()[-1] == "greeter-packages: unchanged"
