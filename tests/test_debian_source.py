"""Source packages: made by dpkg-source, fetched by real doit, and unpacked by dpkg-source."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from tests.keys import Keyring, keyring
from tests.origin import Origin, reply, serving
from tests.project import DODO, definition, doit, ran, written

pytestmark = pytest.mark.skipif(shutil.which("dpkg-source") is None, reason="dpkg-source is not installed")

#: Run with the slow tests: others show the same promise.
SLOW = pytest.mark.slow
CONTROL = """\
Source: greet
Section: misc
Priority: optional
Maintainer: A. Maintainer <a@example.org>
Standards-Version: 4.6.2

Package: greet
Architecture: all
Description: a greeting
"""
CHANGELOG = """\
greet ({version}) unstable; urgency=low

  * First version.

 -- A. Maintainer <a@example.org>  Sat, 01 Nov 2025 00:00:00 +0000
"""
RULES = "#!/usr/bin/make -f\n%:\n\ttrue\n"


@dataclass(frozen=True)
class Package:
    """A source package: its files by name."""

    files: Mapping[str, bytes]

    @property
    def dsc(self) -> str:
        return next(name for name in self.files if name.endswith(".dsc"))

    @property
    def answers(self) -> dict[str, object]:
        return {f"/pool/{name}": reply(content) for name, content in self.files.items()}

    def define(self, url: str, more: str = "", size: str = "yes") -> str:
        """Return a definition named greet with the .dsc at a URL."""
        content = self.files[self.dsc]
        length = f", size: {len(content)}" if size == "yes" else ""
        sha = hashlib.sha256(content).hexdigest()
        return (
            "greet:\n  description: the source of greet\n  fetch:\n    type: debian-source\n"
            f"    dsc: {{url: '{url}', sha256: {sha}{length}}}\n{more}"
        )


def build(root: Path, form: str, version: str = "1:1.0-2") -> Package:
    """Return a package of a source format that dpkg-source makes below `root`."""
    upstream = version.partition(":")[2].rpartition("-")[0] or version.partition(":")[2]
    native = form == "3.0 (native)"
    version = version.rpartition("-")[0] if native else version
    tree = written(
        root / f"greet-{upstream}",
        {
            "hello.txt": "hello\n",
            "debian/control": CONTROL,
            "debian/changelog": CHANGELOG.format(version=version),
            "debian/rules": RULES,
            "debian/source/format": f"{form}\n",
        },
    )
    if not native:
        command = ["tar", "--exclude=debian", "-czf", f"greet_{upstream}.orig.tar.gz", tree.name]
        subprocess.run(command, cwd=root, check=True)
    subprocess.run(["dpkg-source", "-b", tree.name], cwd=root, check=True, capture_output=True)
    return Package({path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.is_file()})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return build(tmp_path_factory.mktemp("quilt"), "3.0 (quilt)")


@pytest.fixture
def origin(package: Package) -> Iterator[Origin]:
    with serving(package.answers) as one:  # type: ignore[arg-type]  # answers
        yield one


def project(root: Path, text: str, **files: str) -> Path:
    """Return a project with this definition and other files."""
    return written(root, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text, **files})


def names(archive: Path) -> list[str]:
    """Return the names in a .tar.zst."""
    with archive.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        return tarfile.open(fileobj=io.BytesIO(stream.read())).getnames()


def unpack(directory: Path, to: Path) -> Path:
    """Unpack the only .dsc in a directory with dpkg-source; return the tree."""
    (dsc,) = directory.glob("*.dsc")
    subprocess.run(["dpkg-source", "-x", str(dsc), str(to)], check=True, capture_output=True)
    return to


@pytest.mark.parametrize("form", [*(pytest.param(one, marks=SLOW) for one in ("1.0", "3.0 (native)")), "3.0 (quilt)"])
def test_dpkg_source_unpacks_what_is_fetched(tmp_path: Path, form: str) -> None:
    """A .dsc and its files are a flat tree in which dpkg-source finds everything; a second run does nothing."""
    (tmp_path / "make").mkdir()
    made = build(tmp_path / "make", form)
    repository = project(tmp_path / "p", made.define((tmp_path / "make" / made.dsc).as_uri()))
    assert ran(doit(repository)) == ["fetch:greet"]
    assert names(repository / "build/artifacts/greet/greet.tar.zst") == sorted(made.files)
    assert ran(doit(repository, "extract:greet")) == ["extract:greet"]
    tree = unpack(repository / "build/extracted/greet", tmp_path / "tree")
    assert (tree / "hello.txt").read_text() == "hello\n"
    assert (tree / "debian/control").read_text() == CONTROL
    assert ran(doit(repository)) == ran(doit(repository, "extract:greet")) == []


@pytest.mark.slow
def test_the_archive_is_the_same_everywhere(tmp_path: Path, package: Package, origin: Origin) -> None:
    """Neither URL, nor umask, nor zone, nor locale is part of the archive."""
    contents = set()
    for number, environ in enumerate(({"TZ": "UTC"}, {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"})):
        repository = project(tmp_path / str(number), package.define(f"{origin.url}/pool/{package.dsc}?n={number}"))
        before = os.umask(0o077 if number else 0o022)
        try:
            ran(doit(repository, **environ))
        finally:
            os.umask(before)
        contents.add((repository / "build/artifacts/greet/greet.tar.zst").read_bytes())
    assert len(contents) == 1


@pytest.mark.slow
def test_the_files_come_from_beside_the_dsc(tmp_path: Path, package: Package, origin: Origin) -> None:
    """Each file is requested once, in the directory of the .dsc; offline, the cache has everything."""
    repository = project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}"))
    assert ran(doit(repository)) == ["fetch:greet"]
    assert sorted(origin.paths()) == sorted(f"/pool/{name}" for name in package.files)
    shutil.rmtree(repository / "build")
    for path in (repository / "cache/artifacts").iterdir():
        shutil.rmtree(path)
    assert ran(doit(repository, FETCH_OFFLINE="1")) == ["fetch:greet"]
    assert len(origin.paths()) == len(package.files)


@pytest.mark.slow
def test_offline_without_cache_fails_by_name(tmp_path: Path, package: Package, origin: Origin) -> None:
    """Nothing is requested, and the message says what to do."""
    repository = project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}"))
    done = doit(repository, FETCH_OFFLINE="1")
    assert done.returncode == 1
    assert "offline" in done.stdout or "network is off" in done.stdout
    assert origin.paths() == []
    assert "Traceback" not in done.stdout


def test_another_file_than_the_dsc_names_is_refused(tmp_path: Path, package: Package, origin: Origin) -> None:
    """The .dsc pins its files: other bytes of the same size are not used."""
    name = next(name for name in package.files if ".orig." in name)
    content = package.files[name]
    origin.answers[f"/pool/{name}"] = reply(content[:-1] + bytes([content[-1] ^ 1]))
    done = doit(project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}")))
    assert done.returncode == 1
    assert name in done.stdout
    assert hashlib.sha256(content).hexdigest() in done.stdout
    assert "the .dsc pins its files" in done.stdout
    assert "pin its size and sha256" not in done.stdout
    assert not (tmp_path / "build/artifacts/greet/greet.tar.zst").exists()


@pytest.mark.slow
def test_a_dead_origin_and_mirrors(tmp_path: Path, package: Package, origin: Origin) -> None:
    """A mirror of the .dsc has the files beside it, and so has a group of mirrors.yml."""
    dead = "http://127.0.0.1:1/pool"
    mirrored = package.define(f"{dead}/{package.dsc}").replace(
        ", sha256", f", mirrors: ['{origin.url}/pool/{package.dsc}'], sha256"
    )
    assert ran(doit(project(tmp_path / "a", mirrored))) == ["fetch:greet"]
    grouped = package.define(f"mirror://debian/pool/{package.dsc}")
    groups = f"groups:\n  debian:\n    urls: ['{dead}/', '{origin.url}/']\n"
    repository = project(tmp_path / "b", grouped, **{"fetchdefs/mirrors.yml": groups})
    assert ran(doit(repository)) == ["fetch:greet"]


@pytest.mark.slow
def test_every_file_is_found_by_its_digest(tmp_path: Path, package: Package) -> None:
    """A content-addressed mirror has the .dsc and each file that it names."""
    answers = {f"/cas/{hashlib.sha256(one).hexdigest()}": reply(one) for one in package.files.values()}
    with serving(answers) as cas:
        rules = f"content-addressed:\n  - {{url: '{cas.url}/cas/{{sha256}}', place: first}}\n"
        text = package.define(f"http://127.0.0.1:1/{package.dsc}")
        assert ran(doit(project(tmp_path, text, **{"fetchdefs/mirrors.yml": rules}))) == ["fetch:greet"]
        assert len(cas.paths()) == len(package.files)


@pytest.mark.slow
def test_an_unknown_mirror_group_is_an_error_of_the_definition(tmp_path: Path, package: Package) -> None:
    """It is reported with the key, before anything is requested."""
    done = doit(project(tmp_path, package.define(f"mirror://nowhere/{package.dsc}")))
    assert done.returncode != 0
    assert "fetch.dsc.url: unknown mirror group 'nowhere'" in done.stdout


@pytest.fixture
def store(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a run with a directory as store."""
    (tmp_path / "store").mkdir()
    return {"FETCH_STORE": (tmp_path / "store").as_uri()}


@pytest.mark.slow
def test_a_store_replaces_the_origin(tmp_path: Path, package: Package, origin: Origin, store: dict[str, str]) -> None:
    """What one machine wrote to a store is enough for another one, which need not believe any result there."""
    text = package.define(f"{origin.url}/pool/{package.dsc}")
    ran(doit(project(tmp_path / "a", text), FETCH_STORE_WRITE="always", **store))
    digests = {hashlib.sha256(one).hexdigest() for one in package.files.values()}
    assert digests <= {path.name for path in (tmp_path / "store").rglob("*") if path.is_file()}
    origin.answers.clear()
    repository = project(tmp_path / "b", text)
    assert ran(doit(repository, **store)) == ["fetch:greet"]
    assert names(repository / "build/artifacts/greet/greet.tar.zst") == sorted(package.files)


@pytest.mark.slow
def test_a_signed_result_is_used_without_the_files(
    tmp_path: Path, package: Package, origin: Origin, store: dict[str, str]
) -> None:
    """The archive that another machine made is one download."""
    text = package.define(f"{origin.url}/pool/{package.dsc}")
    first = project(tmp_path / "a", text)
    assert doit(first, "store", "keygen", "ci.key").returncode == 0
    key = {"FETCH_STORE_WRITE": "always", "FETCH_STORE_SIGNING_KEY": str(first / "ci.key")}
    public = {"fetchdefs/keys/store/ci.pub": (first / "ci.key.pub").read_text()}
    ran(doit(first, **store, **key))
    origin.answers.clear()
    for one in package.files.values():
        (blob,) = (tmp_path / "store").rglob(hashlib.sha256(one).hexdigest())
        blob.unlink()
    second = project(tmp_path / "b", text, **public)
    assert ran(doit(second, **store)) == ["fetch:greet"]
    assert names(second / "build/artifacts/greet/greet.tar.zst") == sorted(package.files)


@pytest.mark.slow
def test_push_pull_and_prune(tmp_path: Path, package: Package, origin: Origin, store: dict[str, str]) -> None:
    """`store push` writes the .dsc and its files, `store prune` keeps them, `store pull` brings them."""
    text = package.define(f"{origin.url}/pool/{package.dsc}")
    first, second = (project(tmp_path / name, text) for name in ("a", "b"))
    ran(doit(first))
    environ = {"FETCH_STORE_WRITE": "always", **store}
    for words, directory in ((["push"], first), (["prune", "--older-than=0s", "--yes"], second), (["pull"], second)):
        done = doit(directory, "store", *words, **environ)
        assert done.returncode == 0, done.stdout
    assert ran(doit(second, FETCH_OFFLINE="1")) == ["fetch:greet"]


@pytest.mark.slow
def test_prune_keeps_what_a_definition_needs(tmp_path: Path, package: Package, origin: Origin) -> None:
    """The .dsc and its files stay while the definition exists, and go with it."""
    repository = project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}"))
    ran(doit(repository))
    blobs = {hashlib.sha256(one).hexdigest() for one in package.files.values()}

    def kept() -> set[str]:
        return blobs & {path.name for path in (repository / "cache/v1/blobs").rglob("*")}

    doit(repository, "prune", "--older-than=0s")
    assert kept() == blobs
    (repository / "fetchdefs/fetch/all.yml").write_text(definition("other", "https://example.org/x", b"x"))
    doit(repository, "prune", "--older-than=0s")
    assert kept() == set()


@pytest.mark.slow
def test_verify_checks_the_files(tmp_path: Path, package: Package, origin: Origin) -> None:
    """A damaged file of the package is found by its name, and repaired."""
    repository = project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}"))
    ran(doit(repository))
    assert doit(repository, "verify", "fetch:greet").returncode == 0
    name = next(name for name in package.files if ".orig." in name)
    digest = hashlib.sha256(package.files[name]).hexdigest()
    (blob,) = (repository / "cache/v1/blobs").rglob(digest)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * len(package.files[name]))
    done = doit(repository, "verify", "--repair", "fetch:greet")
    assert digest in done.stdout
    (blob,) = (repository / "cache/v1/blobs").rglob(digest)
    assert blob.read_bytes() == package.files[name]
    assert doit(repository, "verify", "fetch:greet").returncode == 0


@pytest.mark.slow
def test_info_shows_what_is_pinned(tmp_path: Path, package: Package, origin: Origin) -> None:
    """`info` has the pins of the .dsc, and after the fetch the name and version of the package."""
    url = f"{origin.url}/pool/{package.dsc}"
    repository = project(tmp_path, package.define(url))
    ran(doit(repository))
    assert url in json.loads(doit(repository, "info", "--json", "greet").stdout)[0]["urls"]
    text = doit(repository, "info", "fetch:greet").stdout
    assert hashlib.sha256(package.files[package.dsc]).hexdigest() in text
    assert "greet 1:1.0-2" in text
    assert url in text


@pytest.mark.slow
def test_a_digest_that_stays_under_a_new_url_is_confirmed(tmp_path: Path, package: Package, origin: Origin) -> None:
    """The new URL is asked once; if it has another .dsc, the run fails."""
    repository = project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}"))
    ran(doit(repository))
    origin.answers["/new/greet_2.dsc"] = reply(b"Format: 1.0\n".ljust(len(package.files[package.dsc]), b"#"))
    (repository / "fetchdefs/fetch/all.yml").write_text(package.define(f"{origin.url}/new/greet_2.dsc"))
    done = doit(repository)
    assert done.returncode == 1
    assert "/new/greet_2.dsc" in done.stdout
    origin.answers["/new/greet_2.dsc"] = reply(package.files[package.dsc])
    assert ran(doit(repository)) == ["fetch:greet"]
    assert ran(doit(repository)) == []


# --- signatures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ring() -> Iterator[Keyring]:
    with keyring() as made:
        made.make("good")
        made.make("other")
        yield made


def signed(package: Package, ring: Keyring, user: str = "good") -> Package:
    """Return the package with a clear-signed .dsc."""
    text = ring.gpg("--local-user", user, "--clearsign", stdin=package.files[package.dsc])
    return Package({**package.files, package.dsc: text})


def signing(ring: Keyring, *users: str) -> str:
    keys = ", ".join(ring.fingerprints(user)[0] for user in users)
    return f"    signed-by: [{keys}]\n    key-files: [fetchdefs/keys/all.asc]\n"


def keep_keys(repository: Path, ring: Keyring, *users: str) -> None:
    (repository / "fetchdefs/keys").mkdir(exist_ok=True)
    (repository / "fetchdefs/keys/all.asc").write_bytes(ring.public(*users, armor=True))


def run_signed(root: Path, package: Package, more: str, ring: Keyring) -> subprocess.CompletedProcess[str]:
    """Run doit for a package whose files are in `root/pool`."""
    for name, content in package.files.items():
        (root / "pool").mkdir(parents=True, exist_ok=True)
        (root / "pool" / name).write_bytes(content)
    repository = project(root / "p", package.define((root / "pool" / package.dsc).as_uri(), more))
    keep_keys(repository, ring, "good", "other")
    return doit(repository)


@pytest.mark.parametrize(
    "users", [("other", "good"), *(pytest.param(one, marks=SLOW) for one in (("good",), ("good", "other")))]
)
def test_one_of_the_pinned_keys_suffices(
    tmp_path: Path, package: Package, ring: Keyring, users: tuple[str, ...]
) -> None:
    """The signature is verified and recorded, and dpkg-source reads the signed file."""
    assert ran(run_signed(tmp_path, signed(package, ring), signing(ring, *users), ring)) == ["fetch:greet"]
    assert ran(doit(tmp_path / "p")) == []
    shown = doit(tmp_path / "p", "info", "fetch:greet").stdout
    assert ring.fingerprints("good")[0] in shown
    assert ran(doit(tmp_path / "p", "extract:greet")) == ["extract:greet"]
    assert (unpack(tmp_path / "p/build/extracted/greet", tmp_path / "tree") / "hello.txt").exists()


def inject_before(content: bytes) -> bytes:
    return b"Format: 1.0\nSource: evil\n\n" + content


def inject_after(content: bytes) -> bytes:
    return content + b"\nFormat: 1.0\nSource: evil\n"


def inject_twice(content: bytes) -> bytes:
    return content + content


def inject_changed(content: bytes) -> bytes:
    return content.replace(b"Section", b"Sektion").replace(b"Binary: greet", b"Binary: groot")


@pytest.mark.parametrize(
    "change",
    [inject_changed, *(pytest.param(one, marks=SLOW) for one in (inject_before, inject_after, inject_twice))],
    ids=lambda one: one.__name__,
)
def test_text_that_is_not_signed_is_refused(tmp_path: Path, package: Package, ring: Keyring, change: object) -> None:
    """The digest is right, but the signature does not cover what a reader may take for the .dsc."""
    made = signed(package, ring)
    made = Package({**made.files, made.dsc: change(made.files[made.dsc])})  # type: ignore[operator]
    done = run_signed(tmp_path, made, signing(ring, "good"), ring)
    assert done.returncode == 1
    assert "signature" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "p/build/artifacts/greet/greet.tar.zst").exists()


@pytest.mark.slow
def test_another_key_and_no_signature_are_refused(tmp_path: Path, package: Package, ring: Keyring) -> None:
    """The .dsc must be signed by a pinned key."""
    done = run_signed(tmp_path / "a", signed(package, ring, "other"), signing(ring, "good"), ring)
    assert done.returncode == 1
    assert ring.fingerprints("good")[0] in done.stdout
    done = run_signed(tmp_path / "b", package, signing(ring, "good"), ring)
    assert done.returncode == 1
    assert "not signed" in done.stdout


@pytest.mark.slow
def test_a_key_that_has_expired_is_refused(tmp_path: Path, package: Package) -> None:
    """As for other downloads: the digest of the .dsc does not lift this."""
    with keyring() as ring:
        for name in ("good", "other"):
            ring.make(name, at="20200101T000000", expires="2020-06-01")
        when = ("--faked-system-time", "20200201T000000")
        text = ring.gpg(*when, "--local-user", "good", "--clearsign", stdin=package.files[package.dsc])
        done = run_signed(tmp_path, Package({**package.files, package.dsc: text}), signing(ring, "good", "other"), ring)
    assert done.returncode == 1
    assert "has expired" in done.stdout


@pytest.mark.slow
def test_a_signature_that_is_asked_for_later_is_verified(tmp_path: Path, package: Package, ring: Keyring) -> None:
    """A cached archive is not enough once the definition names keys, and a new key file verifies again."""
    made = signed(package, ring, "other")
    assert ran(run_signed(tmp_path, made, "", ring)) == ["fetch:greet"]
    assert run_signed(tmp_path, made, signing(ring, "good"), ring).returncode == 1
    assert ran(run_signed(tmp_path, made, signing(ring, "other"), ring)) == ["fetch:greet"]
    assert ran(doit(tmp_path / "p")) == []
    keep_keys(tmp_path / "p", ring, "other")
    assert ran(doit(tmp_path / "p")) == ["fetch:greet"]


@pytest.mark.slow
@pytest.mark.parametrize("line", ["    signed-by: [{key}]\n", "    key-files: [fetchdefs/keys/all.asc]\n"])
def test_keys_and_fingerprints_belong_together(tmp_path: Path, package: Package, line: str) -> None:
    """One without the other is an error of the definition."""
    done = doit(project(tmp_path, package.define("https://example.org/x.dsc", line.format(key="A" * 40))))
    assert done.returncode != 0
    assert "`signed-by` and `key-files` belong together" in done.stdout


def test_the_size_is_required(tmp_path: Path, package: Package) -> None:
    """A project's own definition pins the size of the .dsc, as that of every download."""
    done = doit(project(tmp_path, package.define("https://example.org/x.dsc", size="no")))
    assert done.returncode != 0
    assert "fetch.dsc.size: is missing" in done.stdout


# --- other commands ---------------------------------------------------------------------------


@pytest.mark.slow
def test_add_writes_a_definition(tmp_path: Path, package: Package, origin: Origin) -> None:
    """`add URL.dsc` downloads everything, so that a run without a network makes the archive."""
    url = f"{origin.url}/pool/{package.dsc}"
    done = doit(tmp_path, "add", url)
    assert done.returncode == 0, done.stdout
    text = (tmp_path / "fetchdefs/fetch/fetches.yml").read_text()
    content = package.files[package.dsc]
    for line in (
        "greet-1.0-2:",
        "    type: debian-source",
        f"      url: {url}",
        f"      sha256: {hashlib.sha256(content).hexdigest()}",
        f"      size: {len(content)}",
        "    purl: pkg:deb/debian/greet@1:1.0-2?arch=source",
    ):
        assert line in text.splitlines()
    origin.answers.clear()
    assert ran(doit(tmp_path, FETCH_OFFLINE="1")) == ["fetch:greet-1.0-2"]
    assert "already defined as greet-1.0-2" in doit(tmp_path, "add", url).stdout


@pytest.mark.slow
def test_add_verifies_a_signature_by_a_key_of_the_project(tmp_path: Path, package: Package, ring: Keyring) -> None:
    """The definition then requires the signature; one by an unknown key proves nothing, which is said."""
    made = signed(package, ring)
    with serving(made.answers) as origin:  # type: ignore[arg-type]  # answers
        unknown = doit(tmp_path, "add", "--dry-run", f"{origin.url}/pool/{made.dsc}")
        assert unknown.returncode == 0 and "unverified" in unknown.stdout
        written(tmp_path, {"fetchdefs/keys/good.asc": ring.public("good", armor=True).decode()})
        assert doit(tmp_path, "add", f"{origin.url}/pool/{made.dsc}").returncode == 0
    text = (tmp_path / "fetchdefs/fetch/fetches.yml").read_text()
    assert f"signed-by: [{ring.fingerprints('good')[0]}]" in text
    assert "key-files: [fetchdefs/keys/good.asc]" in text
    assert ran(doit(tmp_path, FETCH_OFFLINE="1")) == ["fetch:greet-1.0-2"]


@pytest.mark.slow
def test_add_refuses_what_is_not_a_dsc(tmp_path: Path) -> None:
    """Nothing is written."""
    with serving({"/x.dsc": reply(b"<html></html>")}) as origin:
        done = doit(tmp_path, "add", f"{origin.url}/x.dsc")
    assert done.returncode != 0
    assert "not a .dsc" in done.stdout
    assert not (tmp_path / "fetchdefs").exists()


@pytest.mark.slow
def test_a_bill_of_materials_has_the_source_package(tmp_path: Path, package: Package) -> None:
    """The package URL is that of the source; Ubuntu is recognised by the URL, and `purl:` overrides it."""
    base = "https://deb.example.org/{}/pool/main/g/greet/greet_1.0-2.dsc"
    texts = [package.define(base.format(name)).replace("greet:", f"{name}:", 1) for name in ("debian", "ubuntu")]
    texts.append(
        package.define(base.format("debian"), "    purl: pkg:deb/debian/greet@1:1.0-2?arch=source\n").replace(
            "greet:", "own:", 1
        )
    )
    done = doit(project(tmp_path, "".join(texts)), "sbom", "--format", "spdx-2.3")
    assert done.returncode == 0, done.stdout
    for purl in (
        "pkg:deb/debian/greet@1.0-2?arch=source",
        "pkg:deb/ubuntu/greet@1.0-2?arch=source",
        "pkg:deb/debian/greet@1:1.0-2?arch=source",
    ):
        assert purl in done.stdout
    assert hashlib.sha256(package.files[package.dsc]).hexdigest() in done.stdout


@pytest.mark.slow
def test_export_has_every_file(tmp_path: Path, package: Package, origin: Origin) -> None:
    """A mirror made by `export url` serves the .dsc and its files."""
    repository = project(tmp_path / "a", package.define(f"{origin.url}/pool/{package.dsc}"))
    done = doit(repository, "export", "url", "out")
    assert done.returncode == 0, done.stdout
    assert {path.name for path in (repository / "out").rglob("*") if path.is_file()} >= {*package.files}


@pytest.mark.slow
def test_audit_asks_for_the_dsc(tmp_path: Path, package: Package, origin: Origin) -> None:
    """A .dsc that is gone is a finding, and so is plain http."""
    repository = project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}"))
    assert "dead-source" not in doit(repository, "audit").stdout
    del origin.answers[f"/pool/{package.dsc}"]
    assert "dead-source" in (text := doit(repository, "audit").stdout)
    assert "plain-http" in text


@pytest.mark.slow
def test_outdated_and_update_say_that_they_do_not_look(tmp_path: Path, package: Package, origin: Origin) -> None:
    """Nothing fails with a traceback."""
    repository = project(tmp_path, package.define(f"{origin.url}/pool/{package.dsc}"))
    assert "1 not covered" in doit(repository, "outdated", "greet").stdout
    assert "newer source packages are not looked up" in doit(repository, "outdated", "--json", "greet").stdout
    done = doit(repository, "update", "greet", "--to", "2.0")
    assert done.returncode != 0
    assert "is a source package, which `doit update` does not move" in done.stdout
