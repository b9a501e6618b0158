"""Properties of arbitrary archives: exact trees, agreement with GNU tar, clean refusals."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks_lib import archive
from tasks_lib.archive import Reshape
from tasks_lib.errors import ArchiveError
from tasks_lib.limits import Limits
from tasks_lib.progress import Silent
from tasks_lib.tree.extraction import Extraction
from tests.archives import Member, ar, pax, record, resummed, tar, zipped
from tests.corpus import CASES
from tests.test_archive import BZ, GZ, PLAIN, XZ, ZST, repacked, tree_of

#: More with EXAMPLES=100000, for a run by hand.
EXAMPLES = int(os.environ.get("EXAMPLES", "150"))
LIMITS = Limits(
    max_total_bytes=8 << 20, free_bytes=8 << 20, max_entries=2000, max_metadata_bytes=1 << 16, xz_memlimit_mib=64,
    case_twins="keep",
)  # fmt: skip
often = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

#: Every byte that a name may hold.
_BYTES = bytes(byte for byte in range(0x20, 0x100) if byte not in b"/\x7f")
#: What is refused by rule (docs/archives.md): the root, what leaves it, drives and servers.
_REFUSED = re.compile(rb"\.|(.*\\)?\.\.(\\.*)?|[A-Za-z]:(\\.*)?|\\\\.*", re.DOTALL)
_names = st.one_of(
    st.sampled_from([b"a", b"b", b"-rf", b"~", b"x y", b"\xff\xfe", "ü".encode(), b"n" * 120, b"*"]),
    st.binary(min_size=1, max_size=12)
    .map(lambda raw: bytes(_BYTES[byte % len(_BYTES)] for byte in raw))
    .filter(lambda name: not _REFUSED.fullmatch(name)),
)
_contents = st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * 511, b"x" * 512, b"x" * 513, b"y" * 300_000]))
_trees = st.recursive(
    st.one_of(
        _contents.map(lambda content: ("file", content)),
        _contents.map(lambda content: ("run", content)),
        st.sampled_from(["a", "missing", "./b"]).map(lambda target: ("link", target)),
    ),
    lambda inner: st.dictionaries(_names, inner, max_size=5).map(lambda items: ("directory", items)),
    max_leaves=12,
)


def build(root: Path, tree: dict[bytes, tuple[str, object]]) -> None:
    """Make the tree; a link stays inside."""
    for name, (kind, value) in tree.items():
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        if kind == "directory":
            path.mkdir()
            build(path, value)  # type: ignore[arg-type]  # a directory holds a tree
        elif kind == "link":
            path.symlink_to(str(value))
        else:
            path.write_bytes(value)  # type: ignore[arg-type]  # a file holds bytes
            path.chmod(0o755 if kind == "run" else 0o644)


def extracted(data: bytes, kind: str, destination: Path, limits: Limits) -> dict[str, str]:
    slot = Extraction(destination, destination.parent / "records" / "one.json")
    slot.extract(io.BytesIO(data), name="a", format=kind, reshape=Reshape(), limits=limits, key="k", progress=Silent())
    assert slot.holds("k")
    return tree_of(destination)


@pytest.mark.slow
@often
@given(
    st.dictionaries(_names, _trees, max_size=6),
    st.sampled_from(["gnu", "oldgnu", "pax", "posix-sparse-0.0", "posix-sparse-0.1", "gnu-sparse"]),
)
def test_reads_what_gnu_tar_makes(tree: dict[bytes, tuple[str, object]], kind: str) -> None:
    """Any tree packed by GNU tar is extracted equally, and again from the repacked archive by GNU tar."""
    words = {
        "posix-sparse-0.0": ["--format=posix", "-S", "--sparse-version=0.0"],
        "posix-sparse-0.1": ["--format=posix", "-S", "--sparse-version=0.1"],
        "gnu-sparse": ["--format=gnu", "-S"],
    }.get(kind, [f"--format={kind}"])
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "root").mkdir()
        build(base / "root", tree)
        made = subprocess.run(["tar", *words, "-C", base / "root", "-cf", "-", "."], capture_output=True, check=True)
        assert extracted(made.stdout, "tar", base / "out", LIMITS) == tree_of(base / "root")
        again = zstandard.ZstdDecompressor().decompress(repacked(made.stdout, "tar", limits=LIMITS))
        (base / "again").mkdir()
        subprocess.run(["tar", "-C", base / "again", "-xf", "-"], input=again, check=True)
        assert tree_of(base / "again") == tree_of(base / "root")


#: All options that accept more archives, but for links that lead outside.
LENIENT = LIMITS._replace(
    duplicates="last", control_names="keep", zip_backslash="separator", zip_prefix="ignore", trailing="ignore", end="missing"
)  # fmt: skip
SPARSE_RECORDS = {"major": "1", "minor": "0", "name": "sparse", "realsize": "1000"}
_PAX = pax(record("path", "long/name"), record("size", "7"), record("mtime", "1.5"))
_SPARSE = pax(*(record(f"GNU.sparse.{key}", value) for key, value in SPARSE_RECORDS.items()))
_OTHER = tar([*PLAIN, _PAX, Member("x", b"content"), _SPARSE, Member("s", b"1\n600\n3\n".ljust(512, b"\0") + b"end")])
SEEDS = {
    "tar": ("tar", tar([*PLAIN, Member("L", b"long/name", kind=b"L"), Member("x", b"content")])),
    "tar with extensions": ("tar", _OTHER),
    "old sparse tar": ("tar", CASES["tar-sparse-old-extended"].make()),
    "tar.gz": ("tar.gz", GZ(tar(PLAIN)) + GZ(b"")),
    "tar.bz2": ("tar.bz2", BZ(tar(PLAIN))),
    "tar.xz": ("tar.xz", XZ(tar(PLAIN))),
    "tar.zst": ("tar.zst", ZST(tar(PLAIN))),
    "zip": ("zip", zipped([("d/a", b"content"), ("d/b", b"x" * 600)])),
    "zip with a descriptor": ("zip", CASES["zip-descriptor"].make()),
    "deflated zip": ("zip", CASES["zip"].make()),
    "zip64": ("zip", CASES["zip-64-end"].make()),
    "deb": ("deb", ar(("debian-binary", b"2.0\n"), ("control.tar", tar([])), ("data.tar", tar(PLAIN)))),
}
_mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "double", "drop", "number"]), st.integers(0, 1 << 20), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, mutations: list[tuple[str, int, int]]) -> bytes:
    """Damage `data`; every mutation has a place and a value."""
    for verb, place, value in mutations:
        at = place % max(1, len(data))
        size = value * 3 + 1
        if verb == "flip":
            data = data[:at] + bytes([value]) + data[at + 1 :]
        elif verb == "cut":
            data = data[:at]
        elif verb == "double":
            data = data[: at + size] + data[at:]
        elif verb == "drop":
            data = data[:at] + data[at + size :]
        else:
            data = data[:at] + str(value).encode() + data[at + 3 :]
    return data


def rechecked(data: bytes) -> bytes:
    """Correct the checksum of everything that looks like a tar header, so that damage is found later."""
    found = [match.start() - 257 for match in re.finditer(b"ustar", data) if 257 <= match.start() <= len(data) - 255]
    for at in found:
        data = data[:at] + resummed(data[at : at + 512]) + data[at + 512 :]
    return data


@often
@given(
    st.sampled_from(sorted(SEEDS)),
    _mutations,
    st.sampled_from(["as it is", "right checksums"]),
    st.sampled_from([LIMITS, LENIENT]),
)
def test_a_damaged_archive_is_exact_or_refused(
    seed: str, mutations: list[tuple[str, int, int]], finish: str, limits: Limits
) -> None:
    """Damage causes a refusal that leaves nothing, or a tree with only the entries of the archive; with any options."""
    kind, data = SEEDS[seed]
    data = mutated(data, mutations)
    if finish != "as it is" and kind in ("tar", "deb"):
        data = rechecked(data)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "records").mkdir()
        try:
            found = extracted(data, kind, base / "in" / "out", limits)
        except ArchiveError as error:
            assert all(map(str.isprintable, str(error).splitlines()))
            assert error.code
            assert (
                sorted(path.name for path in base.rglob("*") if not path.is_dir())
                == [".lock"] * (base / "records" / ".lock").exists()
            )
            with pytest.raises(ArchiveError):
                repacked(data, kind, limits=limits)
        else:
            assert not any(path.startswith("..") for path in found)
            assert {path.name for path in base.iterdir()} == {"in", "records"}
            assert {path.name for path in (base / "in").iterdir()} <= {"out", "records"}
            repacked(data, kind, limits=limits)


@often
@given(st.binary(max_size=2000), st.sampled_from(sorted(SEEDS)))
def test_noise_is_refused(data: bytes, seed: str) -> None:
    """Bytes that are not an archive are refused, also after a valid beginning."""
    kind, start = SEEDS[seed]
    for noise in (data, start[:20] + data):
        with pytest.raises(ArchiveError):
            archive.read(
                io.BytesIO(noise), name="a", format=kind, reshape=Reshape(), limits=LIMITS, sink=list[object]().append
            )
