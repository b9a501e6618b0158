"""`doit outdated`: real pages, repositories and a forge played on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.definitions import Definitions, SourceFile, parse
from tasks_lib.pins.answers import list_links
from tasks_lib.pins.outdated import look_up
from tasks_lib.pins.questions import Inner, Question, inquire
from tasks_lib.progress import Silent
from tasks_lib.session import Session
from tasks_lib.settings import Settings
from tests.origin import Answer, Origin, OriginRequest, reply
from tests.project import CLEAN, DODO, PYTHONPATH, definition, doit, written
from tests.repositories import committed, git, made
from tests.test_program import program

CONTENT = b"content"
FIELDS = ("name", "have", "newest", "where", "evidence")
#: Pages as the two servers write them.
NGINX = """<html>
<head><title>Index of /hello/</title></head>
<body>
<h1>Index of /hello/</h1><hr><pre><a href="../">../</a>
{}</pre><hr></body>
</html>
"""
APACHE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html><head><title>Index of /hello</title></head><body><h1>Index of /hello</h1>
<table><tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th><th><a href="?C=N;O=D">Name</a></th></tr>
<tr><td valign="top"><img src="/icons/back.gif" alt="[PARENTDIR]"></td><td><a href="/">Parent Directory</a></td></tr>
{}</table><address>Apache/2.4.57 (Debian) Server at localhost Port 80</address></body></html>
"""


def nginx_page(*names: str) -> Answer:
    return reply(
        NGINX.format("".join(f'<a href="{name}">{name}</a>   01-Jan-2026 10:00   3\n' for name in names)).encode()
    )


def apache_page(*names: str) -> Answer:
    row = '<tr><td valign="top"><img src="/icons/compressed.gif" alt="[   ]"></td><td><a href="{0}">{0}</a></td></tr>\n'
    return reply(APACHE.format("".join(row.format(name) for name in names)).encode())


def project(top: Path, fetches: str) -> Path:
    return written(top, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": fetches})


def rows(top: Path, *names: str, **environ: str) -> dict[str, Any]:
    """Return the rows of `doit outdated --json` by name, made in this process."""
    with contextlib.chdir(top):
        return _rows(names, environ)


def _rows(names: tuple[str, ...], environ: dict[str, str]) -> dict[str, Any]:
    settings = Settings.parse(variables={}, environ={"FETCH_RETRIES": "0", **environ})
    session = Session(settings, {"PATH": os.environ["PATH"], **environ})
    fetches = [fetch for name, fetch in session.definitions.fetches.items() if not names or name in names]
    return {
        row.name: {name: getattr(row, name) for name in FIELDS} for row in look_up(session.context, fetches, Silent())
    }


def printed(top: Path, *words: str, status: int) -> dict[str, Any]:
    """Return the rows that the program prints."""
    done = program(top, "outdated", "--json", *words)
    assert done.returncode == status, done.stdout + done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


HELLO = (
    "hello-1.9.0.tar.gz",
    "hello-1.10.0.tar.gz",
    "hello-1.10.0-rc1.tar.gz",
    "hello-2.0-docs.tar.gz",
    "hello-3.0.tar.gz.sig",
    "world-9.0.tar.gz",
)


@pytest.mark.parametrize("page", [nginx_page, apache_page])
def test_a_listing_names_newer_files(tmp_path: Path, origin: Origin, page: Any) -> None:
    """Files with the name of the present one are versions; prereleases, documentation and other files are not."""
    origin.answers["/hello/"] = page(*HELLO)
    top = project(tmp_path, definition("hello", f"{origin.url}/hello/hello-1.9.0.tar.gz", CONTENT))
    assert rows(top) == {
        "hello": {
            "name": "hello", "have": "1.9.0", "newest": "1.10.0", "where": f"{origin.url}/hello/", "evidence": "link hello-1.10.0.tar.gz",
        }
    }  # fmt: skip


def test_the_table(tmp_path: Path, origin: Origin) -> None:
    """The table lists what is older; `--json` has the fields of the contract."""
    origin.answers["/hello/"] = nginx_page(*HELLO)
    top = project(tmp_path, definition("hello", f"{origin.url}/hello/hello-1.9.0.tar.gz", CONTENT))
    text = doit(top, "outdated")
    assert text.returncode == 1
    assert "hello  1.9.0  1.10.0" in text.stdout
    assert "1 definition: 1 older, 0 could not be looked up, 0 not covered" in text.stdout
    assert [*printed(top, status=1)["hello"]] == [*FIELDS]


def test_newest_and_other_archive_formats(tmp_path: Path, origin: Origin) -> None:
    """The present version may be the newest one; a project may choose another archive format."""
    origin.answers["/a/"] = nginx_page("a-1.9.0.tar.gz")
    origin.answers["/b/"] = nginx_page("b-1.9.0.tar.gz", "b-1.10.0.tar.xz")
    top = project(
        tmp_path, "".join(definition(name, f"{origin.url}/{name}/{name}-1.9.0.tar.gz", CONTENT) for name in "ab")
    )
    found = rows(top)
    assert [(one["have"], one["newest"]) for one in found.values()] == [("1.9.0", "1.9.0"), ("1.9.0", "1.10.0")]


def test_directories_are_named_after_versions(tmp_path: Path, origin: Origin) -> None:
    """The version may be in a directory, whole or its start; then the page above is asked."""
    origin.answers |= {
        "/gcc/": apache_page("gcc-11.4.0/", "gcc-14.2.0/", "infrastructure/"),
        "/glib/": apache_page("2.78/", "2.80/", "2.9/", "cache.json"),
        "/glib/2.78/": nginx_page("glib-2.78.1.tar.xz", "glib-2.78.6.tar.xz"),
        "/glib/2.80/": nginx_page("glib-2.80.0.tar.xz"),
        "/glib/2.9/": nginx_page("glib-2.9.0.tar.xz"),
        "/linux/": nginx_page("v5.x/", "v6.x/", "firmware/"),
        "/linux/v6.x/": nginx_page("linux-6.1.tar.xz", "linux-6.12.1.tar.xz"),
        "/linux/v5.x/": nginx_page("linux-5.9.tar.xz"),
    }
    urls = {
        "gcc": "gcc/gcc-11.4.0/gcc-11.4.0.tar.xz",
        "glib": "glib/2.78/glib-2.78.1.tar.xz",
        "linux": "linux/v5.x/linux-5.9.tar.xz",
    }
    top = project(tmp_path, "".join(definition(name, f"{origin.url}/{path}", CONTENT) for name, path in urls.items()))
    assert {name: row["newest"] for name, row in rows(top).items()} == {
        "gcc": "14.2.0",
        "glib": "2.80.0",
        "linux": "6.12.1",
    }


def test_each_project_is_asked_once(tmp_path: Path, origin: Origin) -> None:
    """200 definitions of ten projects need ten requests; the next run needs none for an hour."""
    text = ""
    for number in range(200):
        at = number % 10
        origin.answers[f"/p{at}/"] = nginx_page(*(f"p-1.{version}.tar.gz" for version in range(21)))
        text += definition(f"d{number}", f"{origin.url}/p{at}/p-1.{number // 10}.tar.gz", CONTENT)
    top = project(tmp_path, text)
    assert {row["newest"] for row in rows(top).values()} == {"1.20"}
    assert sorted(origin.paths()) == sorted(f"/p{at}/" for at in range(10))
    rows(top)
    assert len(origin.requests) == 10
    old = time.time() - 3700
    for path in (top / "cache/v1/lookups").iterdir():
        os.utime(path, (old, old))
    rows(top, "d0")
    assert len(origin.requests) == 11


def test_tags_of_a_repository(tmp_path: Path) -> None:
    """The tag at the pinned commit is the present version; annotated tags and prefixes are understood, other series are not."""
    first = made(tmp_path / "r", {"a": b"1"})
    for tag in ("v1.9.0", "sub/v1.9.0", "other-9.0"):
        git(tmp_path / "r", "tag", tag)
    committed(tmp_path / "r", {"a": b"2"})
    for tag in ("release-1.10.0", "v1.10.0-rc1", "other-10.0", "nightly"):
        git(tmp_path / "r", "tag", "-a", "-m", tag, tag)
    url = f"file://{tmp_path}/r"
    repository = f"  description: d\n  fetch:\n    type: git\n    repo: {url}\n    revision: {{}}\n"
    pinned = "git:\n" + repository.format(first)
    elsewhere = definition(
        "file", "https://h/x-1.9.0.tar.gz", CONTENT, f"    update: {{from: git-tags, url: '{url}'}}\n"
    )
    untagged = "untagged:\n" + repository.format("a" * 40)
    top = project(tmp_path / "top", pinned + elsewhere + untagged)
    found = rows(top, FETCH_GIT_PROTOCOLS="file")
    assert found["git"] == {
        "name": "git",
        "have": "1.9.0",
        "newest": "1.10.0",
        "where": url,
        "evidence": "tag release-1.10.0",
    }
    assert (found["file"]["have"], found["file"]["newest"]) == ("1.9.0", "1.10.0")
    assert (found["untagged"]["have"], found["untagged"]["evidence"]) == ("", "the present version is not known")


def forge(tags: list[Any], per_page: int = 100, kind: str = "releases", link: bool = False) -> Any:
    """Return the answers of an API: pages of releases or tags, by number."""

    def answer_page(connection: Any, request: OriginRequest) -> None:
        number = int(request.path.rpartition("=")[2])
        entries = tags[(number - 1) * per_page : number * per_page]
        more = {"Link": f'<x?page={number + 1}>; rel="next"'} if link and len(tags) > number * per_page else {}
        reply(json.dumps(entries).encode(), Content_Type="application/json", **more)(connection, request)

    return {f"/api/repos/o/r/{kind}": answer_page}


def asset(origin: Origin, path: str = "o/r/releases/download/v1.9.0/r-1.9.0.tar.gz") -> str:
    return definition("r", f"{origin.url}/{path}", CONTENT)


def test_releases_of_a_forge(tmp_path: Path, origin: Origin) -> None:
    """Releases come in pages; drafts and prereleases are not used; the token goes to the API only."""
    releases: list[Any] = [{"tag_name": f"v1.{number}.0", "name": "x"} for number in range(150)]
    releases += [
        {"tag_name": "v3.0.0", "draft": True},
        {"tag_name": "v2.0.0", "prerelease": True},
        {"tag_name": "lib-7.0"},
    ]
    origin.answers |= forge(releases)
    top = project(tmp_path, asset(origin))
    environ = {"FETCH_GITHUB_API": f"{origin.url}/api", "GH_TOKEN": "secret-2", "GITHUB_TOKEN": "secret-1"}
    found = rows(top, **environ)["r"]
    assert (found["newest"], found["evidence"], found["where"]) == (
        "1.149.0",
        "release v1.149.0",
        f"{origin.url}/api/repos/o/r",
    )
    assert [request.path.partition("?")[2] for request in origin.requests] == [
        "per_page=100&page=1",
        "per_page=100&page=2",
    ]
    assert {request.headers["authorization"] for request in origin.requests} == {"Bearer secret-1"}
    assert not any(b"secret" in path.read_bytes() for path in (top / "cache").rglob("*") if path.is_file())


def test_pages_end(tmp_path: Path, origin: Origin) -> None:
    """At most five pages are read; the header Link says whether there is another one."""
    origin.answers |= forge([{"tag_name": f"v1.{number}.0"} for number in range(70)], per_page=10, link=True)
    top = project(tmp_path, asset(origin))
    assert rows(top, FETCH_GITHUB_API=f"{origin.url}/api")["r"]["newest"] == "1.49.0"
    assert len(origin.requests) == 5


def test_a_forge_without_releases_has_tags(tmp_path: Path, origin: Origin) -> None:
    """Tags are asked if there are no releases; an archive of a tag is looked up as a release is."""
    origin.answers |= forge([{"name": "v1.10.0", "commit": {"sha": "a" * 40}}], kind="tags")
    top = project(tmp_path, asset(origin, "o/r/archive/refs/tags/v1.9.0.tar.gz"))
    found = rows(top, FETCH_GITHUB_API=f"{origin.url}/api")["r"]
    assert (found["newest"], found["evidence"]) == ("1.10.0", "tag v1.10.0")


def test_a_used_up_limit(tmp_path: Path, origin: Origin) -> None:
    """An API whose limit is used up is not asked again in the run; the message says until when."""

    def refuse(connection: Any, request: OriginRequest) -> None:
        limit = {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": str(int(time.time()) + 600)}
        reply(b'{"message": "API rate limit exceeded"}', "403 rate limit exceeded", **limit)(connection, request)

    fetches = ""
    for number in range(20):
        origin.answers[f"/api/repos/o/r{number}/releases"] = refuse
        fetches += definition(f"r{number}", f"{origin.url}/o/r{number}/releases/download/v1.9/r.tar.gz", CONTENT)
    top = project(tmp_path, fetches)
    found = rows(top, FETCH_GITHUB_API=f"{origin.url}/api", FETCH_RETRIES="2")
    assert all("the rate limit of the API is used up until" in row["evidence"] for row in found.values())
    assert all("set GITHUB_TOKEN" in row["evidence"] for row in found.values())
    assert len(origin.requests) <= 8  # as many as are asked at a time


BROKEN = {
    "no list": reply(b"{}", Content_Type="application/json"),
    "no JSON": reply(b"<html>"),
    "deep JSON": reply(b"[" * 100_000),
    "another type": reply(b'[{"tag_name": 1}]'),
    "no tags": reply(b"[]"),
    "an error": reply(b"", "500 Internal Server Error"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_forge(tmp_path: Path, origin: Origin, case: str) -> None:
    """An answer that is not understood is no answer: the version is unknown, without a traceback."""
    origin.answers |= {f"/api/repos/o/r/{kind}": BROKEN[case] for kind in ("releases", "tags")}
    top = project(tmp_path, asset(origin))
    found = rows(top, FETCH_GITHUB_API=f"{origin.url}/api")["r"]
    assert (found["have"], found["newest"]) == ("1.9.0", "")
    assert found["evidence"]


def test_update_of_a_definition(tmp_path: Path, origin: Origin) -> None:
    """`update` chooses the page, finds versions by an expression, ignores some and admits prereleases."""
    page = "<p>hello 1.10.0 and hello 1.11.0 and hello 2.0-rc1</p>"
    origin.answers |= {
        "/news": reply(page.encode()),
        "/hello/": nginx_page(*HELLO),
        "/tags/": nginx_page("R1_9", "R1_10", "R2_0"),
    }
    url = f"{origin.url}/hello/hello-1.9.0.tar.gz"
    updates = {
        "text": f"{{from: html, url: '{origin.url}/news', match: 'hello ([0-9.]+)'}}",
        "ignored": f"{{from: html, url: '{origin.url}/news', match: 'hello ([0-9.]+)', ignore: '^1\\.11'}}",
        "pre": "{prereleases: true, ignore: '^1.10.0$'}",
        "match": "{match: '^world-'}",
        "links": f"{{from: html, url: '{origin.url}/tags/', match: 'R([0-9_]+)', ignore: R2}}",
    }
    fetches = "".join(definition(name, url, CONTENT, f"    update: {text}\n") for name, text in updates.items())
    found = rows(project(tmp_path, fetches))
    assert {name: row["newest"] for name, row in found.items()} == {
        "text": "1.11.0", "ignored": "1.10.0", "pre": "1.10.0-rc1", "match": "9.0", "links": "1.10",
    }  # fmt: skip


@pytest.mark.slow
def test_statuses(tmp_path: Path, origin: Origin) -> None:
    """0: nothing is older; 1: something is; 4: something is unknown, or offline; 2: unusable definitions; 3: a wrong word."""
    origin.answers |= {"/a/": nginx_page("a-1.tar.gz", "a-2.tar.gz"), "/b/": nginx_page("b-1.tar.gz")}
    fetches = definition("a", f"{origin.url}/a/a-1.tar.gz", CONTENT) + definition(
        "b", f"{origin.url}/b/b-1.tar.gz", CONTENT
    )
    fetches += definition("gone", f"{origin.url}/gone/g-1.tar.gz", CONTENT) + definition(
        "plain", f"{origin.url}/plain", CONTENT
    )
    fetches += definition("local", "file:///x/a-1.0.tar.gz", CONTENT)
    top = project(tmp_path, fetches)
    offline = printed(top, "a", "--offline", status=4)
    assert offline["a"]["evidence"].startswith("the network is off")
    assert not origin.requests
    for words, status in (
        (["b"], 0),
        (["plain"], 0),
        (["a", "b"], 1),
        (["gone"], 4),
        (["local"], 4),
        ([], 4),
        (["x"], 3),
        (["--format=x"], 3),
    ):
        assert doit(top, "outdated", *words).returncode == status, words
    assert printed(top, "a", "--offline", status=1)  # answers of the last hour
    assert [*printed(top, "fetch:b", "p*", status=0)] == ["b", "plain"]
    (top / "fetchdefs/fetch/all.yml").write_text("a: {}\n")
    assert program(top, "outdated").returncode == 2


@pytest.mark.slow
def test_a_task_of_the_user_has_precedence(tmp_path: Path) -> None:
    """A dodo.py that has a task with the name of the command keeps it."""
    top = written(
        tmp_path,
        {
            "fetchdefs/fetch/a.yml": "{}\n",
            "dodo.py": DODO + "def task_outdated():\n    return {'actions': ['echo mine > made']}\n",
        },
    )
    done = doit(top, "outdated")
    assert (top / "made").exists(), done.stdout


def test_hostile_page(tmp_path: Path, origin: Origin) -> None:
    """A page that is too large is refused; names with control characters reach no terminal."""
    origin.answers["/big/"] = reply(b'<a href="big-2.0.tar.gz">' * 400_000)
    origin.answers["/odd/"] = nginx_page(
        "odd-1.1%1b[31m.tar.gz", "odd-1.2.tar.gz?<script>", "odd-1.3%0a.tar.gz", "%2e%2e"
    )
    top = project(
        tmp_path,
        "".join(definition(name, f"{origin.url}/{name}/{name}-1.0.tar.gz", CONTENT) for name in ("big", "odd")),
    )
    found = rows(top)
    assert "more than 8388608 bytes" in found["big"]["evidence"]
    assert found["odd"]["newest"] == "1.2"


def test_links() -> None:
    """Links are read in every quoting, in linear time; entities and percent-encoding are resolved."""
    text = "<a href=a-1.tgz><A HREF='b%2D1.tgz'><a class=x href=\"/d/c&amp;1.tgz?x=y#z\"><a name=d><area href=e><a href='http://[/'>"
    assert list(list_links(text)) == ["a-1.tgz", "b-1.tgz", "c&1.tgz"]
    assert list(list_links("<a " * 200_000)) == []


def one(fetch: str) -> Definitions:
    return parse([SourceFile(kind="fetch", path="f.yml", text=fetch)])


@pytest.mark.parametrize(
    ("url", "question"),
    [
        ("https://github.com/o/r/releases/download/v1.2/x.tgz", Question("github", "https://api.github.com/repos/o/r")),
        ("https://github.com/o/r/archive/v1.2.tar.gz", Question("github", "https://api.github.com/repos/o/r")),
        ("https://codeload.github.com/o/r/tar.gz/refs/tags/v1.2", Question("github", "https://api.github.com/repos/o/r")),
        ("https://gitlab.com/g/s/p/-/archive/v1.2/p-v1.2.tar.gz", Question("git-tags", "https://gitlab.com/g/s/p.git")),
        ("https://codeberg.org/o/r/archive/v1.2.tar.gz", Question("git-tags", "https://codeberg.org/o/r.git")),
        ("https://h/gnu/hello/hello-2.12.tar.gz", Question("html", "https://h/gnu/hello/")),
        ("https://h/v6.x/linux-6.1.tar.xz", Question("html", "https://h/", Inner("v", ".x", ""))),
        ("https://h/boost/1.83.0/source/boost_1_83_0.tar.gz", Question("html", "https://h/boost/")),
        ("https://h/get?f=x-1.2.tgz", None),
    ],
)  # fmt: skip
def test_question_of_a_url(url: str, question: Question | None) -> None:
    """The URL of a definition suggests whom to ask."""
    assert inquire(one(definition("x", url, CONTENT) + "    artifact-name: x\n").fetch("x"), "").question == question


@pytest.mark.parametrize("url", ["git://127.0.0.1:1/x", "https://127.0.0.1:1/x"])
def test_a_repository_that_does_not_answer(tmp_path: Path, url: str) -> None:
    """A repository that cannot be asked is a row with the reason."""
    top = project(
        tmp_path,
        f"x:\n  description: d\n  fetch: {{type: git, repo: '{url}', revision: {'a' * 40}, artifact-name: x-1.0.tar.zst}}\n",
    )
    found = rows(top)["x"]
    assert found["have"] == "1.0"
    assert "127.0.0.1" in found["evidence"]


def test_a_command_that_runs_git_needs_it(tmp_path: Path) -> None:
    """Without git, the row says what to install."""
    (tmp_path / "bin").mkdir()
    top = project(
        tmp_path, f"x:\n  description: d\n  fetch: {{type: git, repo: 'https://h/x', revision: {'a' * 40}}}\n"
    )
    assert "install git" in rows(top, PATH=str(tmp_path / "bin"))["x"]["evidence"]


@pytest.mark.slow
def test_an_interruption_stops_the_look_ups(tmp_path: Path, origin: Origin) -> None:
    """SIGINT ends the command although the servers do not answer."""
    held = threading.Event()

    def hang(_connection: Any, _request: OriginRequest) -> None:
        held.wait(60)

    fetches = ""
    for name in ("a", "b", "c"):
        origin.answers[f"/{name}/"] = hang
        fetches += definition(name, f"{origin.url}/{name}/{name}-1.0.tar", CONTENT)
    top = project(tmp_path, fetches)
    process = subprocess.Popen(
        [sys.executable, "-m", "doit", "outdated"], cwd=top, env={**CLEAN, "PYTHONPATH": PYTHONPATH}
    )
    try:
        while len(origin.requests) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        held.set()
