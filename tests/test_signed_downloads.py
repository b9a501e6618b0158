"""Signed downloads, with real doit, real gpg, and changes of the policy."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_lib.errors import DefinitionError
from tasks_lib.incremental.definition_files import load
from tests.archives import Member, tar
from tests.keys import Keyring, keyring
from tests.origin import Origin, OriginRequest, reply, serving
from tests.project import DODO, definition, doit, ran
from tests.test_signature import Minisigner

CONTENT = tar([Member("gmp-1/README", b"signed")])
SIGNED = "    gpg-signature:\n      sig-url: '{url}.sig'\n      key-path: fetchdefs/keys/good.asc\n"


@pytest.fixture(scope="module")
def ring() -> Iterator[Keyring]:
    """Yield two keys; one of them expires soon."""
    with keyring() as made:
        made.make("good", expires="41d")
        made.make("other")
        yield made


@pytest.fixture
def origin(ring: Keyring) -> Iterator[Origin]:
    answers = {"/gmp-1.tar": reply(CONTENT), "/gmp-1.tar.sig": reply(ring.sign(CONTENT, "good"))}
    with serving(answers) as one:
        yield one


@pytest.fixture
def repository(tmp_path: Path, origin: Origin, ring: Keyring) -> Path:
    """Return a repository with one signed definition."""
    (tmp_path / "fetchdefs/fetch").mkdir(parents=True)
    (tmp_path / "fetchdefs/keys").mkdir()
    (tmp_path / "dodo.py").write_text(DODO)
    (tmp_path / "fetchdefs/keys/good.asc").write_bytes(ring.public("good", armor=True))
    define(tmp_path, origin, SIGNED)
    return tmp_path


def define(repository: Path, origin: Origin, more: str) -> None:
    text = definition("gmp", f"{origin.url}/gmp-1.tar", CONTENT, more)
    (repository / "fetchdefs/fetch/all.yml").write_text(text)


def provenance(repository: Path) -> dict[str, str]:
    """Return the facts about the signature in the cached results."""
    records = [json.loads(path.read_text()) for path in repository.glob("cache/v1/results/*/*")]
    printed = [record["provenance"] for record in records if "signature" in record["provenance"]]
    assert len(printed) == 1
    found: dict[str, str] = printed[0]
    return found


def test_verified_once_and_again_without_a_network(repository: Path, origin: Origin, ring: Keyring) -> None:
    """The result of the verification is recorded as provenance; the cached signature is verified again offline."""
    done = doit(repository)
    assert ran(done) == ["fetch:gmp"]
    assert "gmp: this key expires in 4" in done.stdout and ".sig" not in done.stdout
    printed = provenance(repository)
    assert printed["signature"] == "good (OpenPGP)"
    assert printed["signing_key"] == ring.fingerprints("good")[0]
    assert printed["signed_by"] == "good <good@example.org>" and len(printed["key_expires"]) == 10
    shown = doit(repository, "info", "fetch:gmp").stdout
    assert "good (OpenPGP)" in shown and printed["key_expires"] in shown and printed["signing_key"] in shown
    assert ran(doit(repository)) == []
    doit(repository, "forget", "fetch:gmp")
    again = doit(repository, FETCH_OFFLINE="1")
    assert ran(again) == ["fetch:gmp"] and "expires in" in again.stdout
    assert sorted(origin.paths()) == ["/gmp-1.tar", "/gmp-1.tar.sig"]
    assert provenance(repository) == printed


def test_a_changed_policy_is_judged_anew(repository: Path, origin: Origin, ring: Keyring) -> None:
    """Cached content is not trusted under another key or fingerprint, with and without a network."""
    ran(doit(repository))
    pinned = SIGNED + f"      fingerprint: {ring.fingerprints('good')[0]}\n"
    define(repository, origin, pinned)
    assert ran(doit(repository, FETCH_OFFLINE="1")) == ["fetch:gmp"]
    define(repository, origin, SIGNED + f"      fingerprint: {ring.fingerprints('other')[0]}\n")
    refused = doit(repository, FETCH_OFFLINE="1")
    assert refused.returncode and "is not in the key file" in refused.stdout
    assert doit(repository).returncode
    define(repository, origin, SIGNED)
    (repository / "fetchdefs/keys/good.asc").write_bytes(ring.public("other"))
    refused = doit(repository, FETCH_OFFLINE="1")
    assert refused.returncode and "not in the key file" in refused.stdout and "Traceback" not in refused.stdout
    shown = doit(repository, "info", "fetch:gmp").stdout
    assert "attempts" in shown and "good@example.org" not in shown


def test_a_changed_key_file_is_noticed(repository: Path, ring: Keyring) -> None:
    """A change of only the key file makes the verification run again."""
    ran(doit(repository))
    assert ran(doit(repository)) == []
    assert ran(doit(repository)) == []
    (repository / "fetchdefs/keys/good.asc").write_bytes(ring.public("good", "other"))
    assert ran(doit(repository, FETCH_OFFLINE="1")) == ["fetch:gmp"]
    assert ran(doit(repository)) == []
    (repository / "fetchdefs/keys/good.asc").write_bytes(ring.public("other"))
    refused = doit(repository, FETCH_OFFLINE="1")
    assert refused.returncode and "not in the key file" in refused.stdout


def test_a_key_file_exchanged_during_the_run(repository: Path, origin: Origin, ring: Keyring) -> None:
    """A verdict covers the keys that were measured: a key file that changes during the download fails the run."""
    path, other, own = repository / "fetchdefs/keys/good.asc", ring.public("other"), ring.public("good")
    path.write_bytes(other)
    content = origin.answers["/gmp-1.tar"]

    def exchange(connection: socket.socket, request: OriginRequest) -> None:
        path.write_bytes(own)
        content(connection, request)

    origin.answers["/gmp-1.tar"] = exchange
    done = doit(repository)
    assert done.returncode and "key file fetchdefs/keys/good.asc changed while doit ran" in done.stdout
    path.write_bytes(other)
    refused = doit(repository)
    assert refused.returncode and "not in the key file" in refused.stdout
    path.write_bytes(own)
    assert ran(doit(repository)) == ["fetch:gmp"]


def test_a_signature_added_later(repository: Path, origin: Origin) -> None:
    """Adding a signature to a definition causes a verification although the bytes are cached."""
    define(repository, origin, "")
    assert ran(doit(repository)) == ["fetch:gmp"]
    define(repository, origin, SIGNED)
    offline = doit(repository, FETCH_OFFLINE="1")
    assert offline.returncode and "its signature: not in the cache, and the network is off" in offline.stdout
    assert ran(doit(repository)) == ["fetch:gmp"]
    assert origin.paths().count("/gmp-1.tar") == 1


def test_wrong_signature_is_not_cached(repository: Path, origin: Origin, ring: Keyring) -> None:
    """A wrong signature is not cached: the next run downloads the right one; nothing is published before."""
    origin.answers["/gmp-1.tar.sig"] = reply(ring.sign(b"other content", "good"))
    refused = doit(repository)
    assert refused.returncode and "does not match the content" in refused.stdout
    assert not list(repository.glob("cache/artifacts/gmp/*/*"))
    origin.answers["/gmp-1.tar.sig"] = reply(ring.sign(CONTENT, "good"))
    assert ran(doit(repository)) == ["fetch:gmp"]


def test_signature_of_a_mirror(repository: Path, origin: Origin) -> None:
    """If the origin fails, the signature beside the mirror's file is used."""
    text = definition(
        "gmp", "http://127.0.0.1:9/gmp-1.tar", CONTENT, f"    mirrors: ['{origin.url}/gmp-1.tar']\n{SIGNED}"
    )
    (repository / "fetchdefs/fetch/all.yml").write_text(text)
    assert ran(doit(repository)) == ["fetch:gmp"]


def test_no_key_file(repository: Path) -> None:
    """The error for a missing key file names it."""
    (repository / "fetchdefs/keys/good.asc").unlink()
    done = doit(repository)
    assert done.returncode and "cannot read key file fetchdefs/keys/good.asc" in done.stdout


def test_key_path_in_a_taskgraph_tree(repository: Path) -> None:
    """In a Taskgraph tree, key paths are relative to the root of the repository, wherever doit runs."""
    kinds = repository / "tree/taskcluster/kinds"
    shutil.copytree(repository / "fetchdefs/fetch", kinds / "fetch")
    shutil.copytree(repository / "fetchdefs/keys", repository / "tree/fetchdefs/keys")
    shutil.rmtree(repository / "fetchdefs")
    assert ran(doit(repository, f"fetchdefs={kinds}")) == ["fetch:gmp"]


@pytest.mark.parametrize("form", ["clear-signed", "detached", "minisign"])
def test_checksums(repository: Path, origin: Origin, ring: Keyring, form: str) -> None:
    """A signed list of digests verifies a listed file, and refuses one with another digest."""
    signer = Minisigner()
    believed = "key-path: fetchdefs/keys/good.asc" if form != "minisign" else f"public-key: {signer.public_key}"
    believed += ", sig-url: '{url}.asc'" if form == "detached" else ""
    define(repository, origin, f"    checksums:\n      url: {origin.url}/SHA256SUMS\n      signed-by: {{{believed}}}\n")

    def publish(digest: str) -> None:
        text = f"{digest}  gmp-1.tar\n{'1' * 64}  other.tar\n".encode()
        clear = ring.gpg("--local-user", "good", "--clearsign", stdin=text)
        origin.answers["/SHA256SUMS"] = reply(clear if form == "clear-signed" else text)
        origin.answers["/SHA256SUMS.asc"] = reply(ring.sign(text, "good"))
        origin.answers["/SHA256SUMS.minisig"] = reply(signer.sign(text))

    publish("0" * 64)
    refused = doit(repository)
    assert refused.returncode and "the signed checksum list has sha256:000" in refused.stdout
    publish(hashlib.sha256(CONTENT).hexdigest())
    assert ran(doit(repository)) == ["fetch:gmp"]
    doit(repository, "forget", "fetch:gmp")
    assert ran(doit(repository, FETCH_OFFLINE="1")) == ["fetch:gmp"]


def test_minisign(repository: Path, origin: Origin) -> None:
    """A minisign signature is downloaded from beside the file."""
    signer = Minisigner()
    define(repository, origin, f"    minisign:\n      public-key: {signer.public_key}\n")
    origin.answers["/gmp-1.tar.minisig"] = reply(signer.sign(CONTENT))
    assert ran(doit(repository)) == ["fetch:gmp"]
    define(repository, origin, f"    minisign:\n      public-key: {Minisigner().public_key}\n")
    assert "does not match the content" in doit(repository).stdout


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("    gpg-signature: {sig-url: 'ftp://x/{url}', key-path: k}\n", "the URL scheme 'ftp'"),
        ("    gpg-signature: {sig-url: '{url}.sig', key-path: ../k}\n", "key-path"),
        ("    gpg-signature: {sig-url: '{url}.sig', key-path: k, fingerprint: abcd}\n", "fingerprint"),
        ("    minisign: {public-key: RWx}\n", "invalid minisign public key"),
        ("    checksums: {url: '{url}.sha256'}\n", "signed-by: is missing"),
        ("    checksums: {url: '{url}.sha256', signed-by: {fingerprint: x}}\n", "fingerprint"),
        ("    checksums: {url: '{url}.sha256', signed-by: {}}\n", "needs exactly one key"),
    ],
)
def test_wrong_fields(repository: Path, origin: Origin, more: str, reason: str) -> None:
    """An invalid policy is refused when the definition is parsed."""
    define(repository, origin, more)
    with pytest.raises(DefinitionError, match=re.escape(reason)):
        load(repository / "fetchdefs")
