"""Journeys with real doit: cold, warm, damaged, changed, offline and relocated runs, and their output."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.archives import Member, tar
from tests.origin import Origin, reply
from tests.project import DODO, LIBRARY, ROOT, TOOL, definition, doit, ran, written


@pytest.fixture
def repository(tmp_path: Path, origin: Origin) -> Path:
    """Return a user's repository: one line of dodo.py, two fetches, one toolchain with a command."""
    repack = "    artifact-name: lib.tar.zst\n    strip-components: 1\n    add-prefix: lib/\n"
    files = {
        "dodo.py": DODO,
        "fetchdefs/fetch/all.yml": definition("lib", f"{origin.url}/lib-1.0.tar", LIBRARY, repack)
        + definition("tool", f"{origin.url}/tool.tar", TOOL),
        "fetchdefs/toolchain/all.yml": "built:\n  description: b\n  fetches: {fetch: [lib, {artifact: tool, dest: t}]}\n"
        "  run:\n    script: build.sh\n    toolchain-artifact: out.txt\n"
        "user:\n  description: u\n  fetches:\n    fetch: [{artifact: tool, extract: false}]\n    toolchain: [built]\n",
        "fetchdefs/toolchain/build.sh": '#!/bin/sh\ncat lib/lib.h t/tool/tool.c > "$UPLOAD_DIR/out.txt"\necho "$MOZ_FETCHES"\n',
    }
    return written(tmp_path / "repository", files)


ALL = sorted(
    ["fetch:lib", "fetch:tool", "repack:lib", "extract:built/lib", "extract:built/tool", "extract:user/built"]
    + ["toolchain:built", "toolchain:user"]
)


def test_cold_then_warm(repository: Path, origin: Origin) -> None:
    """`doit` builds everything that is declared; the second run executes no action and sends no request."""
    assert ran(doit(repository)) == ALL
    assert (repository / "build/built/artifacts/out.txt").read_bytes() == b"#define LIB 1\nint main;"
    assert (repository / "build/user/fetches/out.txt").read_bytes() == b"#define LIB 1\nint main;"
    assert (repository / "build/user/fetches/tool.tar").read_bytes() == TOOL
    assert os.access(repository / "build/built/fetches/lib/run", os.X_OK)
    assert '"task": "fetch-tool"' in (repository / "build/built/run.log").read_text()
    assert ran(doit(repository)) == []
    assert sorted(origin.paths()) == ["/lib-1.0.tar", "/tool.tar"]


def test_an_archive_that_is_not_extracted(tmp_path: Path) -> None:
    """A file that looks like an archive, by name or content, is placed with a warning, unless this is asked for."""
    contents = {
        "a.7z": b"text", "b": b"7z\xbc\xaf\x27\x1c", "c.tar.Z": b"text", "d": b"\x04\x22\x4d\x18", "jq": b"\x7fELF",
        "asked.rar": b"Rar!",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    listed = ", ".join(f"{{artifact: {name}, extract: false}}" if name == "asked.rar" else name for name in contents)
    files = {
        "dodo.py": DODO,
        "fetchdefs/fetch/all.yml": "".join(
            definition(name, f"file://{tmp_path}/{name}", contents[name]) for name in contents
        ),
        "fetchdefs/toolchain/all.yml": f"t:\n  description: t\n  fetches: {{fetch: [{listed}]}}\n",
    }
    done = doit(written(tmp_path / "r", files))
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "r/build/t/fetches").iterdir()} == set(contents)
    warnings = sorted(line.partition(": ")[2] for line in done.stdout.splitlines() if "placed as it is" in line)
    assert [line.split()[0] for line in warnings] == ["a.7z", "b", "c.tar.Z", "d"], done.stdout


@pytest.mark.parametrize("moved", ["build", "build/artifacts", "cache"])
def test_directory_on_another_disk(moved: str, repository: Path) -> None:
    """The links to artifacts lead to them while their directory is behind a symlink, and after it was moved."""
    other = repository.parent / "disk/deep/er"
    other.mkdir(parents=True)
    (repository / moved).parent.mkdir(exist_ok=True)
    (repository / moved).symlink_to(other)
    ran(doit(repository))
    assert (repository / "build/artifacts/tool/tool.tar").read_bytes() == TOOL
    assert ran(doit(repository)) == []
    (repository / moved).unlink()
    other.rename(repository / moved)
    ran(doit(repository))
    assert (repository / "build/artifacts/tool/tool.tar").read_bytes() == TOOL
    other.parent.rmdir()
    (repository / moved).rename(other.parent)
    (repository / moved).symlink_to(other.parent)
    ran(doit(repository))
    assert (repository / "build/artifacts/tool/tool.tar").read_bytes() == TOOL


@pytest.mark.parametrize("way", ["", "    format: gz\n"], ids=["placed", "one compressed file"])
def test_file_name_without_other_bytes(way: str, tmp_path: Path) -> None:
    """A command sees the name of a single file: with another name of the same bytes it runs again, as anywhere else."""
    content = gzip.compress(b"data", mtime=0) if way else b"data"
    toolchain = (
        "t:\n  description: t\n  fetches: {fetch: [d]}\n"
        "  run: {command: 'ls -d *.bin > $UPLOAD_DIR/out', toolchain-artifact: out}\n"
    )
    for name in ("old.bin.gz", "new.bin.gz") if way else ("old.bin", "new.bin"):
        (tmp_path / name).write_bytes(content)
        files = {"fetchdefs/fetch/a.yml": definition("d", (tmp_path / name).as_uri(), content, way)}
        project = written(tmp_path / "r", {"dodo.py": DODO, "fetchdefs/toolchain/a.yml": toolchain, **files})
        ran(doit(project))
        assert (project / "build/artifacts/t/out").read_text() == f"{name.removesuffix('.gz')}\n"


def test_lost_database_costs_no_network(repository: Path, origin: Origin) -> None:
    """Without doit's database all results are taken from the cache; no command runs again."""
    ran(doit(repository))
    log = repository / "build/built/run.log"
    before = log.stat().st_mtime_ns
    (repository / "cache/doit.db").unlink()
    doit(repository)
    assert len(origin.requests) == 2
    assert log.stat().st_mtime_ns == before
    assert ran(doit(repository, "forget", "fetch:lib")) == []
    assert ran(doit(repository)) == ["fetch:lib"]
    assert len(origin.requests) == 2


def test_second_machine_with_the_same_cache(repository: Path, origin: Origin) -> None:
    """With the cache of another machine no request is sent and no command runs."""
    ran(doit(repository))
    shutil.rmtree(repository / "build")
    (repository / "cache/doit.db").unlink()
    origin.answers.clear()
    assert ran(doit(repository)) == ALL
    assert not (repository / "build/built/run.log").exists()
    assert (repository / "build/user/fetches/out.txt").read_bytes() == b"#define LIB 1\nint main;"
    assert len(origin.requests) == 2


def test_a_flipped_byte_is_noticed(repository: Path, origin: Origin) -> None:
    """A damaged blob is quarantined and fetched again; dependent tasks do not run, because the content is the same."""
    ran(doit(repository))
    digest = hashlib.sha256(LIBRARY).hexdigest()
    blob = repository / f"cache/v1/blobs/sha256/{digest[:2]}/{digest}"
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[600] ^= 1
    blob.write_bytes(content)
    assert ran(doit(repository)) == ["fetch:lib"]
    assert blob.read_bytes() == LIBRARY
    assert any((repository / "cache/v1/quarantine").iterdir())
    assert len(origin.requests) == 3
    assert ran(doit(repository)) == []


def test_a_changed_digest_runs_exactly_what_depends_on_it(repository: Path, origin: Origin) -> None:
    """A new version of one fetch runs its own chain; the old state is found again in the cache."""
    ran(doit(repository))
    definitions = repository / "fetchdefs/fetch/all.yml"
    old, new = definitions.read_text(), tar([Member("tool/tool.c", b"int other;")])
    old_sha, new_sha = hashlib.sha256(TOOL).hexdigest(), hashlib.sha256(new).hexdigest()
    origin.answers["/tool.tar"] = reply(new)
    definitions.write_text(old.replace(old_sha, new_sha))
    affected = ["extract:built/tool", "extract:user/built", "fetch:tool", "toolchain:built", "toolchain:user"]
    assert ran(doit(repository)) == affected
    assert (repository / "build/user/fetches/out.txt").read_bytes() == b"#define LIB 1\nint other;"
    origin.answers.clear()
    definitions.write_text(old)
    assert ran(doit(repository)) == affected
    assert (repository / "build/user/fetches/out.txt").read_bytes() == b"#define LIB 1\nint main;"


def test_selection(repository: Path) -> None:
    """Names, globs, clean, forget, an archive on its own, and threads work as a doit user expects."""
    assert ran(doit(repository, "-n", "4", "fetch:l*")) == ["fetch:lib"]
    assert ran(doit(repository, "extract:lib")) == ["extract:lib", "repack:lib"]
    assert (repository / "build/extracted/lib/lib/lib.h").exists()
    assert doit(repository, "clean", "extract:lib").returncode == 0
    assert not (repository / "build/extracted/lib").exists()
    listed = doit(repository, "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["extract", "fetch", "image", "repack", "toolchain"]
    info = doit(repository, "info", "fetch:lib").stdout
    assert hashlib.sha256(LIBRARY).hexdigest() in info
    assert "taskgraph_digest" in info


def test_elsewhere(repository: Path, tmp_path: Path) -> None:
    """Definitions and cache can be in other directories, set by argument or environment."""
    (repository / "fetchdefs").rename(tmp_path / "defs")
    assert len(ran(doit(repository, f"fetchdefs={tmp_path}/defs", f"cache={tmp_path}/c", "fetch"))) == 2
    assert (tmp_path / "c/v1/blobs").is_dir()
    assert ran(doit(repository, "fetch", FETCHDEFS_DIR=f"{tmp_path}/defs", FETCH_CACHE_DIR=f"{tmp_path}/c")) == []


def test_a_directory_whose_name_is_no_text(repository: Path) -> None:
    """In a directory whose name is not UTF-8, relative paths work; a file with such a name is refused."""
    odd = repository / os.fsdecode(b"odd\xff")
    written(odd, {"dodo.py": DODO, "fetchdefs/fetch/near.yml": definition("near", "file:../../near.tar", TOOL)})
    (odd / "near.tar").write_bytes(TOOL)
    assert ran(doit(odd, "offline=1", "extract:near")) == ["extract:near", "fetch:near"]
    assert (odd / "build/extracted/near/tool/tool.c").exists()
    for fetchdefs in (str(odd / "fetchdefs"), "fetchdefs"):
        done = doit(odd, f"fetchdefs={fetchdefs}", "list")
        assert (done.returncode, "Traceback" in done.stdout) == (3 if fetchdefs != "fetchdefs" else 0, False)
    (odd / "fetchdefs/fetch/near.yml").rename(odd / os.fsdecode(b"fetchdefs/fetch/\xe9.yml"))
    printed = (
        r"ERROR: fetchdefs/fetch/\udce9.yml:1: the path is not valid UTF-8: rename it, or set a relative `fetchdefs=`"
    )
    assert doit(odd, "list").stdout.strip() == printed


def test_offline(repository: Path, origin: Origin) -> None:
    """Offline, cached content is used and missing content is reported; no socket is opened."""
    ran(doit(repository, "fetch:lib"))
    asked = len(origin.requests)
    assert ran(doit(repository, "offline=1", "repack:lib")) == ["repack:lib"]
    done = doit(repository, "offline=1")
    assert done.returncode != 0
    assert "tool: not in the cache, and the network is off" in done.stdout
    assert len(origin.requests) == asked


def test_an_edited_tree_is_extracted_again(repository: Path) -> None:
    """An edit that keeps the size is noticed: the next run restores the file from the archive."""
    assert "extract:tool" in ran(doit(repository, "extract:tool"))
    assert ran(doit(repository, "extract:tool")) == []
    edited = repository / "build/extracted/tool/tool/tool.c"
    content = edited.read_bytes()
    later = (repository / "build/extracted/.records/tool.json").stat().st_mtime_ns + 1
    edited.write_bytes(content.upper())
    os.utime(edited, ns=(later, later))
    assert ran(doit(repository, "extract:tool")) == ["extract:tool"]
    assert edited.read_bytes() == content


@pytest.mark.slow
def test_the_source_date_is_a_part_of_the_key(repository: Path) -> None:
    """An earlier SOURCE_DATE_EPOCH yields another archive beside the first; a later one, the usual case, does not."""
    assert ran(doit(repository, "repack:lib")) == ["fetch:lib", "repack:lib"]
    assert ran(doit(repository, "repack:lib", SOURCE_DATE_EPOCH="1700000000")) == []
    assert ran(doit(repository, "repack:lib", SOURCE_DATE_EPOCH="86400")) == ["repack:lib"]
    assert ran(doit(repository, "repack:lib", SOURCE_DATE_EPOCH="86400")) == []
    made = (repository / "cache/artifacts/lib").glob("*/lib.tar.zst")
    first, second = sorted(path.read_bytes() for path in made)
    assert first != second
    done = doit(repository, "repack:lib", SOURCE_DATE_EPOCH="yesterday")
    assert done.returncode != 0
    assert "invalid value 'yesterday' for SOURCE_DATE_EPOCH: expected seconds since 1970" in done.stdout
    assert "Traceback" not in done.stdout


FAILURES = {
    "unreachable": ("url: http", "url: http://127.0.0.1:9/x #", "no source provided"),
    "wrong size": ("size: 2048", "size: 2049", "expected 2049 bytes, but the server announces 2048"),
    "wrong digest": (hashlib.sha256(TOOL).hexdigest(), "0" * 64, f"got sha256:{hashlib.sha256(TOOL).hexdigest()}"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_reported_in_three_lines(case: str, repository: Path) -> None:
    """A failed fetch says which source, expected and actual, without a traceback; -c finishes the rest."""
    old, new, printed = FAILURES[case]
    path = repository / "fetchdefs/fetch/all.yml"
    head, _, tail = path.read_text().partition("tool:\n")
    path.write_text(f"{head}tool:\n{tail.replace(old, new)}")
    done = doit(repository, "-c")
    assert done.returncode != 0
    assert printed in done.stdout
    assert "Traceback" not in done.stdout
    message = done.stdout.partition("taskid:fetch:tool\n")[2].partition("\n\n")[0]
    assert len(message.strip().partition("\n    sha256:")[0].splitlines()) <= 3
    assert ".  repack:lib" in done.stdout


def test_damaged_archive(repository: Path, origin: Origin) -> None:
    """A damaged archive is refused with its name, and the download stays in the cache."""
    damaged = LIBRARY[:1100]
    origin.answers["/lib-1.0.tar"] = reply(damaged)
    path = repository / "fetchdefs/fetch/all.yml"
    text = path.read_text().replace(hashlib.sha256(LIBRARY).hexdigest(), hashlib.sha256(damaged).hexdigest())
    path.write_text(text.replace(f"size: {len(LIBRARY)}", f"size: {len(damaged)}"))
    done = doit(repository, "repack:lib")
    assert done.returncode != 0
    assert (
        "lib-1.0.tar: entry 'lib-1.0/lib.h' (offset 1100): truncated: the archive ends too early [TRUNCATED]"
        in done.stdout
    )
    assert "Traceback" not in done.stdout
    assert len(origin.requests) == 1
    assert doit(repository, "repack:lib").returncode != 0
    assert len(origin.requests) == 1


def test_wrong_definitions_are_all_reported(repository: Path) -> None:
    """Every problem of every file is printed, one line each, and nothing runs."""
    (repository / "fetchdefs/fetch/bad.yml").write_text("x: {description: d, fetch: {type: nope}}\n")
    (repository / "fetchdefs/toolchain/bad.yml").write_text("y: {descriptio: d}\n")
    done = doit(repository)
    assert done.returncode == 3
    assert "fetchdefs/fetch/bad.yml:1: x.fetch.type: the type 'nope' is not supported" in done.stdout
    assert "fetchdefs/toolchain/bad.yml:1: y.descriptio: unknown key" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_command_that_cannot_run_here_is_skipped(repository: Path) -> None:
    """Status 77 is a reported skip and retried; another status is a failure with the last line of the log."""
    script = repository / "fetchdefs/toolchain/build.sh"
    script.write_text("#!/bin/sh\necho no compiler here\nexit 77\n")
    done = doit(repository, "toolchain:built")
    assert "toolchain:built: skipped: no compiler here" in done.stdout
    assert ran(doit(repository, "toolchain:built")) == ["toolchain:built"]
    script.write_text("#!/bin/sh\necho broken\nexit 3\n")
    done = doit(repository, "toolchain:built")
    assert done.returncode != 0
    assert "the command exited with status 3: broken" in done.stdout


@pytest.mark.parametrize("resource", ["gone.txt", "'*.patch'", "gone/"])
def test_a_resource_that_matches_nothing(resource: str, repository: Path) -> None:
    """The inputs of a command are part of its key: a resource that does not exist is refused."""
    text = f"kit:\n  description: k\n  run: {{command: ['true'], resources: [{resource}]}}\n"
    written(repository, {"fetchdefs/toolchain/kit.yml": text})
    done = doit(repository, "toolchain:kit")
    assert done.returncode == 1
    assert f"toolchain kit: resource {resource.strip(chr(39))} matches no file\n" in done.stdout


@pytest.mark.slow
def test_a_toolchain_that_asks_for_something_else(repository: Path) -> None:
    """After a change of version, directory or list of artifacts, the build contains exactly the current fetches."""
    for version in ("1", "2"):
        content = tar([Member(f"lib-{version}/lib.h", version.encode()), Member(f"lib-{version}/v{version}", b"")])
        (repository / f"g{version}.tar").write_bytes(content)
        more = "    artifact-name: g.tar.zst\n    strip-components: 1\n    add-prefix: g/\n"
        text = definition(f"g-{version}", f"file:../../g{version}.tar", content, more)
        written(repository, {f"fetchdefs/fetch/g{version}.yml": text})
    asked = {
        "g-1, {artifact: tool, dest: x, extract: false}": {"g/lib.h", "g/v1", "x/tool.tar"},
        "g-2, {artifact: tool, dest: y, extract: false}": {"g/lib.h", "g/v2", "y/tool.tar"},
        "{artifact: tool, extract: false}": {"tool.tar"},
        "g-1": {"g/lib.h", "g/v1"},
        "": set[str](),
    }
    made = repository / "build/kit/fetches"
    for fetches, files in asked.items():
        text = f"kit: {{description: k, fetches: {{fetch: [{fetches}]}}}}\n"
        written(repository, {"fetchdefs/toolchain/kit.yml": text})
        assert "toolchain:kit" in ran(doit(repository, "toolchain:kit"))
        assert {str(one.relative_to(made)) for one in made.rglob("*") if one.is_file()} == files
        assert ran(doit(repository, "toolchain:kit")) == []


#: Says what its fetches are, and leaves a file there that the other version of the library has too, read-only.
MESSY = """#!/bin/sh
find . -type f | sort > "$UPLOAD_DIR/out"
mkdir -p made lib && echo made > made/lib.h && chmod 555 made
rm -r lib && echo made > lib
"""


@pytest.mark.parametrize("change", ["version", "clean", "no command"])
def test_what_a_command_left_is_in_nobodys_way(change: str, repository: Path) -> None:
    """Before fetches are placed again, files that a command left there are removed, so that its next run cannot use them."""
    for name, top in (("lib-1", "lib"), ("lib-2", "made")):
        content = tar([Member(f"{top}/lib.h", name.encode())])
        (repository / f"{name}.tar").write_bytes(content)
        text = definition(name, f"file://{repository}/{name}.tar", content)
        written(repository, {f"fetchdefs/fetch/{name}.yml": text})
    kit = "kit:\n  description: k\n  fetches: {fetch: [FETCH]}\n  run: {script: make.sh, toolchain-artifact: out}\n"
    files = {"fetchdefs/toolchain/make.sh": MESSY, "fetchdefs/toolchain/kit.yml": kit.replace("FETCH", "lib-1")}
    written(repository, files)
    ran(doit(repository, "toolchain:kit"))
    left, made = repository / "build/kit/fetches", repository / "build/kit/artifacts/out"
    assert made.read_text() == "./lib/lib.h\n"
    assert (left / "lib").is_file()
    if change == "version":
        written(repository, {"fetchdefs/toolchain/kit.yml": kit.replace("FETCH", "lib-2")})
        ran(doit(repository, "toolchain:kit"))
        assert made.read_text() == "./made/lib.h\n"
    elif change == "clean":
        assert doit(repository, "clean", "toolchain:kit").returncode == 0
        shutil.rmtree(repository / "cache")
        ran(doit(repository, "toolchain:kit"))
        assert made.read_text() == "./lib/lib.h\n"
    else:
        text = kit.replace("FETCH", "lib-1").partition("  run:")[0]
        written(repository, {"fetchdefs/toolchain/kit.yml": text})
        ran(doit(repository, "toolchain:kit"))
        assert [str(one.relative_to(left)) for one in left.rglob("*") if one.is_file()] == ["lib/lib.h"]
        assert ran(doit(repository, "toolchain:kit")) == []


@pytest.mark.slow
@pytest.mark.parametrize("extract", ["true", "false"])
def test_fetches_are_whole_when_the_output_is_adopted(extract: str, repository: Path) -> None:
    """Returning to an earlier version with a cached output runs no command, and places unchanged fetches again."""
    for name in ("a", "b-1", "b-2"):
        content = tar([Member(f"{name}.h", name.encode())])
        (repository / f"{name}.tar").write_bytes(content)
        text = definition(name, f"file://{repository}/{name}.tar", content)
        written(repository, {f"fetchdefs/fetch/{name}.yml": text})
    written(repository, {"fetchdefs/toolchain/make.sh": '#!/bin/sh\nls > "$UPLOAD_DIR/out"\n'})
    for name in ("b-1", "b-2", "b-1"):
        fetches = f"[{{artifact: a, extract: {extract}}}, {{artifact: {name}, extract: false}}]"
        text = f"kit:\n  description: k\n  fetches: {{fetch: {fetches}}}\n  run: {{script: make.sh, toolchain-artifact: out}}\n"
        written(repository, {"fetchdefs/toolchain/kit.yml": text})
        assert "toolchain:kit" in ran(doit(repository, "toolchain:kit"))
        made = sorted(path.name for path in (repository / "build/kit/fetches").iterdir())
        assert made == ["a.h" if extract == "true" else "a.tar", f"{name}.tar"]
    assert ran(doit(repository, "toolchain:kit")) == []


@pytest.mark.parametrize("then", ["clean", "run"])
def test_another_dest(then: str, repository: Path) -> None:
    """After a change of `dest:`, clean and the next run remove the files at the old one, but none of the user's."""
    kit = "kit: {description: k, fetches: {fetch: [{artifact: tool, dest: DEST}, {artifact: lib, dest: DEST, extract: false}]}}\n"
    written(repository, {"fetchdefs/toolchain/kit.yml": kit.replace("DEST", "x")})
    ran(doit(repository, "toolchain:kit"))
    made = repository / "build/kit/fetches"
    written(
        repository, {"fetchdefs/toolchain/kit.yml": kit.replace("DEST", "y"), "build/kit/fetches/y/tool/own": "mine"}
    )
    if then == "clean":
        written(repository, {"build/kit/fetches/y/lib.tar.zst": "mine", "build/kit/fetches/y/tool/tool.c": "mine"})
        assert doit(repository, "clean", "-c", "toolchain:kit").returncode == 0
        left = {"y/tool/own", "y/tool/tool.c", "y/lib.tar.zst"}
    else:
        ran(doit(repository, "toolchain:kit"))
        left = {"y/tool/own", "y/tool/tool.c", "y/lib.tar.zst"}
    assert {str(one.relative_to(made)) for one in made.rglob("*") if one.is_file()} == left
    assert ((made / "y/tool/tool.c").read_text() == "mine") == (then == "clean")


#: Says which files of the build a run opens, and which of its directories it lists.
AUDITED = (
    DODO
    + """
import os, sys
log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def audit(event, words):
    if event in ("open", "os.listdir", "os.scandir") and "build" in str(words[0]):
        os.write(log, f"{event} {words[0]}\\n".encode())
sys.addaudithook(audit)
"""
)


@pytest.mark.slow
def test_many_fetches_of_one_toolchain(repository: Path) -> None:
    """The cost per fetch does not grow with their number: cold, all changed, all replaced, cleaned."""
    written(repository, {"dodo.py": AUDITED})

    def looks(*words: str) -> tuple[int, int]:
        """Run doit; return how often it opened files and listed directories of the build."""
        (repository / "log").unlink(missing_ok=True)
        done = doit(repository, *words)
        assert done.returncode == 0, done.stdout
        lines = (repository / "log").read_text().splitlines()
        return sum(line.startswith("open ") for line in lines), sum(
            ".fetches" in line and "os." in line for line in lines
        )

    def defined(count: int, start: int, version: int) -> None:
        texts, asked = [], []
        for number in range(start, start + count):
            content = tar([Member(f"p{number}/f", b"%d" % version)])
            (repository / f"p{number}.tar").write_bytes(content)
            texts.append(definition(f"p{number}", f"file://{repository}/p{number}.tar", content))
            asked.append(f"{{artifact: p{number}, extract: {'true' if number % 2 else 'false'}}}")
        kit = f"kit: {{description: k, fetches: {{fetch: [{', '.join(asked)}]}}}}\n"
        written(repository, {"fetchdefs/fetch/many.yml": "".join(texts), "fetchdefs/toolchain/kit.yml": kit})

    found: dict[str, list[tuple[int, int]]] = {}
    for count in (10, 40):
        shutil.rmtree(repository / "build", ignore_errors=True)
        for step, (start, version) in {"cold": (0, 1), "versions": (0, 2), "others": (1000, 1)}.items():
            defined(count, start, version)
            found.setdefault(step, []).append(looks("toolchain:kit"))
        found.setdefault("clean", []).append(looks("clean", "-c", "toolchain:kit"))
        assert not (repository / "build/kit/fetches").exists()
    for step, (few, many) in found.items():
        assert many[0] <= 5 * few[0], (step, found)
        assert many[1] <= few[1] + 4, (step, found)  # workers that begin at once


def test_a_file_that_moves_to_another_fetch(repository: Path) -> None:
    """Two fetches change together, and one gets an entry of the other: any order of delivery works."""

    def kit(a: list[str], z: list[str]) -> set[str]:
        for name, files in (("a", a), ("z", z)):
            content = tar([Member(file, name.encode()) for file in files])
            (repository / f"{name}.tar").write_bytes(content)
            text = definition(name, f"file://{repository}/{name}.tar", content)
            written(repository, {f"fetchdefs/fetch/{name}.yml": text})
        text = "kit: {description: k, fetches: {fetch: [a, z]}}\n"
        written(repository, {"fetchdefs/toolchain/kit.yml": text})
        ran(doit(repository, "-n", "1", "toolchain:kit"))
        made = repository / "build/kit/fetches"
        return {f"{one.relative_to(made)}={one.read_text()}" for one in made.iterdir()}

    assert kit(["f"], ["g", "h"]) == {"f=a", "g=z", "h=z"}
    assert kit(["f", "g"], ["h"]) == {"f=a", "g=a", "h=z"}
    assert kit(["f"], ["g", "h"]) == {"f=a", "g=z", "h=z"}


def test_the_sample(tmp_path: Path) -> None:
    """`doit` in this repository needs no network, compiles the sample, and is then up to date."""
    for name in ("dodo.py", "fetchdefs"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    done = doit(tmp_path)
    assert {"toolchain:sample", "fetch:greeter-packages"} <= {*ran(done)}
    if shutil.which("cc") is None:
        assert "skipped: no C compiler" in done.stdout
        return
    greeter = tmp_path / "build/sample/artifacts/greeter"
    greeter.chmod(0o755)
    assert subprocess.run([greeter], stdout=subprocess.PIPE, check=True).stdout == b"Hello, the origin is down!\n"
    assert ran(doit(tmp_path)) == []


def test_the_sample_is_what_its_script_writes(tmp_path: Path) -> None:
    """The committed files are byte for byte what make.py writes, and InRelease signs what it writes."""
    subprocess.run([sys.executable, ROOT / "fetchdefs/sample/make.py", tmp_path], check=True)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (ROOT / "fetchdefs/sample" / path.relative_to(tmp_path)).read_bytes()
    suite = ROOT / "fetchdefs/sample/debian/dists/stable"
    assert (suite / "Release").read_text() in (suite / "InRelease").read_text()


def test_database_is_sqlite(repository: Path) -> None:
    """Doit's state is a crash-safe database, not the platform's dbm."""
    ran(doit(repository, "fetch:lib"))
    with sqlite3.connect(repository / "cache/doit.db") as database:
        assert database.execute("select count(*) from sqlite_master").fetchone() != (0,)
    database.close()
