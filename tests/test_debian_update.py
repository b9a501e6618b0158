"""`doit update` of Debian packages: apt resolves them from indexes whose signatures and digests were verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import zstandard

from tasks_lib.errors import (
    AllSourcesFailedError,
    EditError,
    FetchError,
    ReleaseRolledBackError,
    SignatureError,
    ToolError,
    UnresolvableError,
)
from tests.debian_mirror import DATE, Deb, DebianMirror, write
from tests.debian_update import (
    COMMON,
    DEBS,
    HELLO,
    LIBRARY,
    LOCK,
    Project,
    here,
    keys,
    needs_apt,
    read,
    release_of,
)
from tests.origin import reply
from tests.project import DOIT, PYTHONPATH, ROOT, doit, written

__all__ = ["here", "keys"]


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
    assert [index.path for index in release.indexes] == ["main/binary-amd64/Packages.gz"]
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
    here.define(essential=True, packages=None)
    here.update()
    assert here.packages() == ["base 1.0", "dash 1.0"]


@needs_apt
@pytest.mark.slow
def test_names_that_end_with_a_plus(here: Project) -> None:
    """A name that ends with a plus is a name for apt, too, and no request to install another package."""
    here.mirror.publish([Deb("g++", depends="libstdc++6"), Deb("g+"), Deb("g"), Deb("libstdc++6")])
    here.define(packages=["g++"])
    here.update()
    assert here.packages() == ["g++ 1.0", "libstdc++6 1.0"]


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
        "main/binary-amd64/Packages.gz",
        "main/binary-arm64/Packages.gz",
    ]
    fetched = doit(Path(), "fetch:debs")
    assert fetched.returncode == 0, fetched.stdout
    with zstandard.open("build/artifacts/debs/debs.tar.zst") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        contents = {one.name: (extracted.read() if (extracted := tar.extractfile(one)) else b"") for one in tar}
    assert {name for name in contents if name.endswith(".deb")} == {deb.pool for deb in (HELLO, LIBRARY, COMMON, *arm)}
    assert b"\nArchitectures: amd64 arm64\n" in contents["Release"]
    assert contents["Packages"].count(b"Package: ") == 5


@needs_apt
@pytest.mark.slow
@pytest.mark.parametrize("supported", ["", "No-Support-for-Architecture-all: Packages\n"])
def test_an_index_for_all_architectures(here: Project, supported: str) -> None:
    """Packages of all architectures may have an index of their own, unless the Release file says otherwise."""
    own = "\n".join(deb.paragraph for deb in DEBS if deb is not COMMON or supported).encode()
    here.mirror.publish_files(
        {"main/binary-amd64/Packages": own, "main/binary-all/Packages": COMMON.paragraph.encode()},
        "stable",
        f"Suite: stable\nDate: Sun, 01 Nov 2026 08:30:00 UTC\nArchitectures: all amd64\nComponents: main\n{supported}",
    )
    here.update()
    assert here.packages() == ["common 1.0", "hello 1:2.0-1", "libhello 1.4"]
    expected = (
        ["main/binary-amd64/Packages"] if supported else ["main/binary-all/Packages", "main/binary-amd64/Packages"]
    )
    assert [index.path for index in read().releases[0].indexes] == expected


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
    best = min(packings, key=[".gz", ".xz", ""].index)
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
            here.origin.answers[f"{below}/{quote(name)}"] = reply(path.read_bytes())


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
    assert "debs: the suite stable was valid until 2026-11-02T08:30:00Z" in shown
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
        ("Codename: a/../b\n", "stable", "2026-11-01T08:30:00Z"),
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


@needs_apt
def test_an_error_has_the_name_of_the_definition_once(here: Project) -> None:
    """The line of an error ends with its class, by which the documentation lists what to do."""
    here.define(packages=["nowhere"])
    failed = doit(Path(), "update", "debs")
    reason = "debs: apt cannot resolve the packages for amd64: Unable to locate package nowhere [UnresolvableError]"
    assert (failed.returncode, failed.stdout.splitlines()[0]) == (1, reason)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"components": ["contrib"]},
            "no index of contrib for amd64 [UnresolvableError]\nit has the components main and the architectures",
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


@pytest.mark.usefixtures("here")
def test_apt_ends_with_the_command(tmp_path: Path) -> None:
    """A command that is terminated, as by the timeout of a CI, leaves no program that works for it."""
    programs = written(tmp_path / "bin", {"apt-get": "#!/bin/sh\necho $$ > apt.pid\nexec sleep 600\n"})
    (programs / "apt-get").chmod(0o755)
    pid = Path("apt.pid")
    words = [*DOIT, "update", "debs"]
    path = f"{programs}:{os.environ['PATH']}"
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": PYTHONPATH, "PATH": path}) as running:
        while not (pid.exists() and pid.read_text()):
            assert running.poll() is None
            time.sleep(0.02)
        running.terminate()
        assert running.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


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
