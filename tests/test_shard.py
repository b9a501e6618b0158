"""Shards: which part of the definitions a bare run fetches."""

from __future__ import annotations

import hashlib
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks_lib.errors import SettingError
from tasks_lib.shard import Shard, pack_shares, unpack_shares
from tests.origin import OriginRequest, reply, serving
from tests.project import DODO, LIBRARY, definition, doit, ran, written
from tests.test_runner import start

SIZES = st.integers(0, 3) | st.integers(0, 2**40)
KEYS = st.lists(st.tuples(st.integers(0, 2**64 - 1), SIZES), max_size=60)


@settings(max_examples=40)
@given(shares=KEYS, total=st.integers(1, 12) | st.integers(13, 300), repeated=st.integers(0, 5))
def test_the_union_is_the_whole(shares: list[tuple[int, int]], total: int, repeated: int) -> None:
    """All shards together have every definition once; definitions with one key are in one shard, in any order."""
    shares = shares + shares[:repeated]
    keys, sizes = unpack_shares(pack_shares(shares))
    for by_size in (False, True):
        shards = [Shard(number, total) for number in range(1, total + 1)]
        parts = [one.select_by_size(keys, sizes) if by_size else one.select(keys) for one in shards]
        assert sorted(at for part in parts for at in part) == list(range(len(keys)))
        of_key = {(keys[at], number) for number, part in enumerate(parts) for at in part}
        assert len(of_key) == len(set(keys))
        backwards = [
            one.select_by_size(keys[::-1], sizes[::-1]) if by_size else one.select(keys[::-1]) for one in shards
        ]
        assert of_key == {(keys[::-1][at], number) for number, part in enumerate(backwards) for at in part}


def test_shards_by_size_are_alike() -> None:
    """No shard by size is larger than the mean by more than the largest definition."""
    shares = [(number * 2654435761 % 2**64, number**3) for number in range(1, 500)]
    keys, sizes = unpack_shares(pack_shares(shares))
    totals = [sum(sizes[at] for at in Shard(one, 7).select_by_size(keys, sizes)) for one in range(1, 8)]
    assert max(totals) - min(totals) <= max(sizes) and sum(totals) == sum(sizes)


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("3/50", {}, "3/50"),
        ("1/1", {"CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "3"}, "1/1"),
        ("auto", {"CI_NODE_INDEX": "1", "CI_NODE_TOTAL": "3"}, "1/3"),
        ("auto", {"CI_NODE_INDEX": "3", "CI_NODE_TOTAL": "3"}, "3/3"),
        ("auto", {"CIRCLE_NODE_INDEX": "0", "CIRCLE_NODE_TOTAL": "4"}, "1/4"),
        ("auto", {"BUILDKITE_PARALLEL_JOB": "3", "BUILDKITE_PARALLEL_JOB_COUNT": "4"}, "4/4"),
        ("auto", {"BITBUCKET_PARALLEL_STEP": "1", "BITBUCKET_PARALLEL_STEP_COUNT": "2"}, "2/2"),
    ],
)
def test_parsed(text: str, environ: Mapping[str, str], expected: str) -> None:
    """A shard is given, or comes from the variables of a CI service, which count from 0 or 1."""
    assert str(Shard.parse(text, environ)) == expected


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("0/3", {}, "shard=0/3: not a shard"),
        ("4/3", {}, "shard=4/3: not a shard"),
        ("3", {}, "shard=3: not a shard"),
        ("-1/3", {}, "not a shard"),
        ("1/3\n", {}, "not a shard"),
        ("\u0663/\u0665", {}, "not a shard"),
        ("1/999999", {}, "not a shard"),
        ("auto", {}, "no variables of a CI service"),
        ("auto", {"CI_NODE_TOTAL": "3"}, "no variables of a CI service"),
        ("auto", {"CI_NODE_INDEX": "0", "CI_NODE_TOTAL": "3"}, "CI_NODE_INDEX=0, CI_NODE_TOTAL=3: not a shard"),
        ("auto", {"CIRCLE_NODE_INDEX": "x", "CIRCLE_NODE_TOTAL": "3"}, "CIRCLE_NODE_INDEX=x"),
    ],
)
def test_refused(text: str, environ: Mapping[str, str], message: str) -> None:
    """Other values are refused with the value and the next step."""
    with pytest.raises(SettingError, match=message) as caught:
        Shard.parse(text, environ)
    assert len(str(caught.value).splitlines()) == 2


def test_a_bare_run(tmp_path: Path) -> None:
    """A bare run makes the fetches of its shard; all shards together make all; a named task is made with all it needs."""
    (tmp_path / "dodo.py").write_text(DODO)
    (tmp_path / "fetchdefs/fetch").mkdir(parents=True)
    files = {f"d{number}": b"%d" % (number // 2) for number in range(12)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    files["archive.tar"] = LIBRARY
    (tmp_path / "archive.tar").write_bytes(LIBRARY)
    text = "".join(definition(name, (tmp_path / name).as_uri(), content) for name, content in files.items())
    (tmp_path / "fetchdefs/fetch/all.yml").write_text(text)
    made = []
    for number in (1, 2, 3):
        done = doit(tmp_path, f"shard={number}/3", "cache=cache" + str(number), f"store={tmp_path.as_uri()}/store")
        assert f"shard {number} of 3: {len(ran(done))} of 13 definitions, " in done.stdout
        made.append(ran(done))
    assert sorted(name for part in made for name in part) == sorted(f"fetch:{name}" for name in files)
    assert all(("fetch:d0" in part) == ("fetch:d1" in part) for part in made), "the same bytes are fetched once"
    listed = doit(tmp_path, "list", "--all", "shard=1/3", f"store={tmp_path.as_uri()}/store").stdout
    assert sorted(line.split()[0] for line in listed.splitlines() if line.startswith("fetch:")) == made[0]
    named = next(f"fetch:{name}" for name in files if f"fetch:{name}" not in made[0])
    assert ran(doit(tmp_path, "shard=1/3", named, f"store={tmp_path.as_uri()}/store")) == [named]


@pytest.mark.slow
def test_platforms(tmp_path: Path) -> None:
    """All shards together are what a bare run makes, also with content of another platform; equal bytes are in one."""
    (tmp_path / "dodo.py").write_text(DODO)
    (tmp_path / "fetchdefs/fetch").mkdir(parents=True)
    text = ""
    for number in range(6):
        for name in (f"a{number}", f"b{number}"):
            (tmp_path / name).write_text(name)
        one, other = (
            f"url: {(tmp_path / name).as_uri()}, sha256: {hashlib.sha256(name.encode()).hexdigest()}, size: 2"
            for name in (f"a{number}", f"b{number}")
        )
        platforms = f"{{linux-aarch64: {{{one}}}, linux-x86_64: {{{other}}}}}"
        text += f"t{number}:\n  description: d\n  fetch:\n    type: static-url\n    artifact-name: x\n"
        text += f"    platforms: {platforms}\n"
        text += f"p{number}: {{description: d, fetch: {{type: static-url, {other}}}}}\n"
    (tmp_path / "fetchdefs/fetch/all.yml").write_text(text)
    store = f"store={tmp_path.as_uri()}/store"
    for platform, count in (("linux-aarch64", 12), ("linux-x86_64", 12), ("all", 18)):
        whole = doit(tmp_path, "list", "--all", store, f"platform={platform}").stdout
        expected = sorted(line.split()[0] for line in whole.splitlines() if line.startswith("fetch:"))
        for by in ("key", "size"):
            words = ("list", "--all", store, f"platform={platform}", f"shard_by={by}")
            made = [doit(tmp_path, *words, f"shard={number}/3").stdout for number in (1, 2, 3)]
            numbers = {
                line.split()[0].partition("@")[0]: at for at, text in enumerate(made) for line in text.splitlines()
            }
            listed = sorted(line.split()[0] for text in made for line in text.splitlines() if line[:6] == "fetch:")
            assert len(listed) == count and set(listed) <= set(expected), (platform, by, listed)
            assert len(set(listed)) == count
            if platform == "linux-x86_64":
                assert [numbers[f"fetch:t{at}"] for at in range(6)] == [numbers[f"fetch:p{at}"] for at in range(6)]


@pytest.mark.slow
def test_a_shard_is_lost(tmp_path: Path) -> None:
    """Four shards at once, one killed and run again: the store has everything, and only what was in flight is repeated."""
    bodies = {f"/d{number}": b"content %d" % number for number in range(400)}
    (tmp_path / "store").mkdir()
    with serving({path: reply(body) for path, body in bodies.items()}) as origin:
        text = "".join(definition(path[1:], origin.url + path, body) for path, body in bodies.items())
        runs = []
        for number in range(1, 5):
            place = tmp_path / str(number)
            written(place, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text})
            environ = {"FETCH_STORE": (tmp_path / "store").as_uri(), "FETCH_STORE_WRITE": "always"}
            runs.append((place, (f"shard={number}/4",), environ))
        processes = [start(place, *words, **environ) for place, words, environ in runs]
        while len(origin.requests) < 40:
            time.sleep(0.01)
        processes[2].kill()
        printed = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL, 0], printed
        shutil.rmtree(runs[2][0] / "cache", ignore_errors=True)  # the next job is another machine
        again = doit(runs[2][0], *runs[2][1], **runs[2][2])
        assert again.returncode == 0, again.stdout
        assert len(origin.requests) <= len(bodies) + 4 * 16 + 4
    held = {path.name for path in (tmp_path / "store/cas").iterdir()}
    assert held >= {hashlib.sha256(body).hexdigest() for body in bodies.values()}


@pytest.mark.slow
def test_a_slow_store_slows_a_shard(tmp_path: Path) -> None:
    """A shard fetches no more than its store soon has: what waits to be written is lost with the machine."""
    bodies = {f"/d{number}": b"content %d" % number for number in range(300)}
    waiting: list[int] = []

    class SlowStore(dict[str, object]):
        def get(self, path: str, _default: object = None) -> object:
            def answer(connection: socket.socket, request: OriginRequest) -> None:
                if "content-length" in request.headers:
                    time.sleep(0.02)
                    waiting.append(len(origin.requests) - sum(one.startswith("/x/cas/") for one in puts))
                    puts.append(path)
                    reply(b"", "201 Created")(connection, request)
                else:
                    reply(b"", "404 Not Found")(connection, request)

            return answer

    puts: list[str] = []
    with serving({path: reply(body) for path, body in bodies.items()}) as origin, serving(SlowStore()) as store:  # type: ignore[arg-type]
        text = "".join(definition(path[1:], origin.url + path, body) for path, body in bodies.items())
        written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": text})
        environ = {"FETCH_STORE": f"{store.url}/x", "FETCH_STORE_WRITE": "always"}
        done = doit(tmp_path, "shard=1/1", **environ)
        assert done.returncode == 0, done.stdout
        assert len(set(puts)) == len(bodies) + 1, "the empty blob, too"
        assert max(waiting) <= 64 + 16 + 4, "the backlog, the downloads and the uploads at work"
