"""Mirrors: groups, rules, content addresses, allow and block; none of them changes a recipe key."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tasks_lib import recipe
from tasks_lib.cache import Cache
from tasks_lib.definitions import Definitions, SourceFile, StaticUrl, mirrors_schema, parse
from tasks_lib.errors import AllSourcesFailedError, DefinitionError
from tasks_lib.incremental.definition_files import load
from tasks_lib.progress import Silent
from tests.origin import reply, serving
from tests.project import DODO, definition, doit, ran, written
from tests.test_downloader import BODY, PINNED, sources, wanted

ROOT = Path(__file__).parent.parent
SHA = "a" * 64


def parsed(mirrors: str, url: str = "https://origin.example/x/a.tar", more: str = "") -> Definitions:
    fetch = f"a:\n  description: d\n  fetch: {{type: static-url, url: '{url}', sha256: {SHA}, size: 5{more}}}\n"
    files = [SourceFile(kind="fetch", path="fetch/a.yml", text=fetch)]
    files += [SourceFile(kind="mirrors", path="mirrors.yml", text=mirrors)] if mirrors else []
    return parse(files)


def places(mirrors: str, url: str = "https://origin.example/x/a.tar", more: str = "") -> list[str]:
    source = parsed(mirrors, url, more).fetches["a"].source
    assert isinstance(source, StaticUrl)
    return [place.url + (" !" if place.refused else "") for place in source.places]


GROUP = "groups: {g: {urls: [https://one.example/, https://two.example/sub/], go-on: not-found}}\n"
PLACES = {
    "nothing said": ("", "https://o.example/a", "", ["https://o.example/a"]),
    "empty file": ("", "https://o.example/a", ", mirrors: ['https://m.example/a']", ["https://o.example/a", "https://m.example/a"]),
    "group": (GROUP, "mirror://g/x/a", "", ["https://one.example/x/a", "https://two.example/sub/x/a"]),
    "group as mirror": (GROUP, "https://o.example/a", ", mirrors: ['mirror://g/a']", ["https://o.example/a", "https://one.example/a", "https://two.example/sub/a"]),
    "rule": ("rewrite: [{match: 'https://o\\.example/(.*)', to: ['https://c.example/\\1', direct]}]", "https://o.example/a", "", ["https://c.example/a", "https://o.example/a"]),
    "rule to a group": (GROUP + "rewrite: [{match: 'https://o\\.example/(.*)', to: 'mirror://g/\\1'}]", "https://o.example/a", "", ["https://one.example/a", "https://two.example/sub/a"]),
    "only the first rule": ("rewrite: [{match: '.*', to: 'https://c.example/'}, {match: '.*', to: 'https://d.example/'}]", "https://o.example/a", "", ["https://c.example/"]),
    "a rule fits the whole URL": ("rewrite: [{match: 'https://o', to: 'https://c.example/'}]", "https://o.example/a", "", ["https://o.example/a"]),
    "each place once": (GROUP, "https://one.example/a", ", mirrors: ['mirror://g/a']", ["https://one.example/a", "https://two.example/sub/a"]),
    "content first and last": ("content-addressed: [{url: 'https://t.example/{algo}/{hex}'}, {url: 'https://c.example/cas/{sha256}', place: first}]", "https://o.example/a", "", [f"https://c.example/cas/{SHA}", "https://o.example/a", f"https://t.example/sha256/{SHA}"]),
    "index of Taskcluster": ("content-addressed: [{url: 'https://t.example/{name}.hash.{taskgraph_digest}/public/{artifact}', place: first}]", "https://o.example/a b".replace(" ", "+"), "", [f"https://t.example/a.hash.{hashlib.sha256(f'--sha256{chr(10)}{SHA}{chr(10)}--size{chr(10)}5{chr(10)}a+b'.encode()).hexdigest()}/public/a%2Bb", "https://o.example/a+b"]),
    "the index has no download of a repack": ("content-addressed: [{url: 'https://t.example/{taskgraph_digest}'}]", "https://o.example/a.tar", ", artifact-name: b.tar.zst", ["https://o.example/a.tar"]),
    "block": ("block: o.example", "https://sub.o.example/a", ", mirrors: ['https://xo.example/a']", ["https://sub.o.example/a !", "https://xo.example/a"]),
    "block with a dot": ("block: o.example", "https://o.example./a", "", ["https://o.example./a !"]),
    "block in every spelling": ("block: 127.9.0.1", "http://127.9.1/a", ", mirrors: ['http://2131296257/', 'http://0x7f.9.1/', 'http://[::ffff:127.9.0.1]/', 'http://[64:ff9b::7f09:1]/', 'http://127.9.0.1./', 'http://\uff11\uff12\uff17.9.0.1/', 'http://127.9.0.2/']", ["http://127.9.1/a !", "http://2131296257/ !", "http://0x7f.9.1/ !", "http://[::ffff:127.9.0.1]/ !", "http://[64:ff9b::7f09:1]/ !", "http://127.9.0.1./ !", "http://\uff11\uff12\uff17.9.0.1/ !", "http://127.9.0.2/"]),
    "block a spelling": ("block: [127.9.1, '[::2]', 127.0.0.1, B\u00dcCHER.example]", "http://127.9.0.1/a", ", mirrors: ['http://[0::2]/', 'http://0/', 'http://[::]/', 'http://xn--bcher-kva.example/', 'http://b\u00fccher.example/']", ["http://127.9.0.1/a !", "http://[0::2]/ !", "http://0/ !", "http://[::]/ !", "http://xn--bcher-kva.example/ !", "http://b\u00fccher.example/ !"]),
    "allow a spelling": ("allow: [127.0.0.1]", "http://127.1/a", ", mirrors: ['http://[64:ff9b::7f00:1]/a', 'http://0/a']", ["http://127.1/a", "http://[64:ff9b::7f00:1]/a !", "http://0/a !"]),
    "a rule makes no URL": ("rewrite: [{match: 'https://o.example/(.*)', to: ['http://[\\1/', 'https://h:\\1/', direct]}]", "https://o.example/x", "", ["http://[x/ !", "https://h:x/ !", "https://o.example/x"]),
    "a rule makes a scheme": ("rewrite: [{match: 'https://o.example/(.*)', to: ['mirror://\\1']}]", "https://o.example/x", "", ["mirror://x !"]),
    "allow": ("allow: [m.example]", "https://o.example/a", ", mirrors: ['https://m.example/a']", ["https://o.example/a !", "https://m.example/a"]),
    "block wins": ("allow: [m.example]\nblock: ['*']", "https://m.example/a", "", ["https://m.example/a !"]),
    "block after rewriting": (GROUP + "block: o.example\nrewrite: [{match: 'https://o\\.example/(.*)', to: 'mirror://g/\\1'}]", "https://o.example/a", "", ["https://one.example/a", "https://two.example/sub/a"]),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_places(case: str) -> None:
    """mirrors.yml yields an ordered list of URLs without duplicates."""
    mirrors, url, more, expected = PLACES[case]
    assert places(mirrors, url, more) == expected


WRONG = {
    "unknown key": ("group: {}", "mirrors.yml:1: group: unknown key: did you mean groups?"),
    "no list": ("rewrite: {}", "mirrors.yml:1: rewrite: must be a list"),
    "no slash": ("groups: {g: {urls: 'https://h.example/a'}}", "must end with a slash"),
    "word": ("groups: {g: {urls: 'https://h.example/', go-on: never}}", "invalid value 'never': use any-error or not-found"),
    "pattern": ("rewrite: [{match: '(', to: direct}]", "invalid regular expression"),
    "unknown name": ("rewrite: [{match: '(?P<n>a)', to: 'https://h.example/\\g<m>'}]", "refers to a group that '(?P<n>a)' does not define"),
    "bad escape": ("rewrite: [{match: 'a', to: 'https://h.example/\\x'}]", "has a backslash that does not begin a group"),
    "lookahead": ("rewrite: [{match: '(?=a)', to: direct}]", "mirrors.yml:1: rewrite.1.match: invalid regular expression: invalid perl operator: (?=: write it in the syntax of RE2"),
    "too many repetitions": ("rewrite: [{match: '(((a{1000}){1000}){1000}){1000}', to: direct}]", "invalid regular expression: invalid repetition size"),
    "back reference": ("rewrite: [{match: 'a', to: 'https://h.example/\\1'}]", "refers to a group that 'a' does not define"),
    "unknown group in a rule": (GROUP + "rewrite: [{match: 'a', to: 'mirror://gg/x'}]", "unknown mirror group 'gg': did you mean g?"),
    "no digest": ("content-addressed: [{url: 'https://h.example/'}]", "has no digest placeholder"),
    "unknown brace": ("content-addressed: [{url: 'https://h.example/{hex}/{md5}'}]", "unknown placeholder '{md5}'"),
    "no host": ("block: ['https://h.example']", "invalid host 'https://h.example'"),
    "password": ("groups: {g: {urls: 'https://u:p@h.example/'}}", "contains a user name or password"),
}  # fmt: skip


@pytest.mark.parametrize(
    "pattern", ["https://h.example/(a+)+b/x", "https://h.example/(a|aa)+b/x", "(.*)*(.*)*(.*)*!", "(a?){90}b"]
)
def test_an_expression_that_would_explode(pattern: str) -> None:
    """The time of an expression is linear, whatever its form: a URL that does not match is left as it is."""
    url = f"https://h.example/{'a' * 90}/x"
    assert places(f"rewrite: [{{match: '{pattern}', to: 'https://c.example/'}}]", url) == [url]


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rules_are_reported(case: str) -> None:
    """An invalid rule is reported with file, line, key and a hint."""
    mirrors, expected = WRONG[case]
    with pytest.raises(DefinitionError) as caught:
        parsed(mirrors)
    assert expected in str(caught.value)


def test_every_problem_at_once() -> None:
    """Problems of mirrors.yml and of definitions are reported together."""
    with pytest.raises(DefinitionError) as caught:
        parsed("block: [':']\nallow: ['/']\nx: y\n", url="mirror://nowhere/a")
    assert len(caught.value.problems) == 4
    with pytest.raises(DefinitionError, match="require a single origin"):
        parsed(GROUP, "mirror://g/a", ", headers: {X: y}")


def test_no_key_changes() -> None:
    """Changing the mirrors does not change a key."""
    plain, moved = parsed(""), parsed(GROUP + "content-addressed: [{url: 'https://h.example/{hex}'}]\nblock: '*'")
    keys = [recipe.fetch_key(one.fetches["a"].source.integrity) for one in (plain, moved)]  # type: ignore[union-attr]  # downloads
    assert keys[0] == keys[1]
    assert recipe.taskgraph_digest(plain.fetches["a"]) == recipe.taskgraph_digest(moved.fetches["a"])


def test_the_repository_knows_gnu() -> None:
    """Each GNU archive of the GCC definitions has several places, and the archive of nixpkgs is the last resort."""
    definitions = load(ROOT / "fetchdefs")
    gnu = [
        one.source
        for one in definitions.fetches.values()
        if isinstance(one.source, StaticUrl) and "gnu.org" in one.source.url
    ]
    assert len(gnu) > 5
    assert all(len(one.locations) >= 3 and one.places[-1].by == "content" for one in gnu)


def test_schema_is_current() -> None:
    """docs/mirrors.schema.json is up to date."""
    assert json.loads((ROOT / "docs/mirrors.schema.json").read_text("utf-8")) == json.loads(
        json.dumps(mirrors_schema())
    )


# --- asking ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "asked"), [("404 X", 1), ("410 X", 1), ("500 X", 0), ("403 X", 0)])
def test_go_on_only_when_not_found(status: str, asked: int, tmp_path: Path) -> None:
    """After an authoritative mirror responds, the next one is tried only if the file was not found."""
    store = Cache(tmp_path / "cache")
    with serving({"/a": reply(b"", status)}) as first, serving({"/a": reply(BODY)}) as second:
        one = wanted(f"{first.url}/a", f"{second.url}/a", strict=frozenset({f"{first.url}/a"}))
        try:
            sources(store).obtain(one, Silent())
        except AllSourcesFailedError:
            assert not asked
        assert len(second.requests) == asked
        assert store.has(PINNED) == bool(asked)


def test_a_blocked_mirror_is_not_requested_and_reported(tmp_path: Path) -> None:
    """A blocked mirror receives no request, and the report gives the reason."""
    with serving({"/a": reply(BODY)}) as origin:
        url = f"{origin.url}/a"
        with pytest.raises(AllSourcesFailedError, match="skipped: it is blocked: ask Ann"):
            sources(Cache(tmp_path / "c")).obtain(wanted(url, refused={url: "it is blocked: ask Ann"}), Silent())
        assert not origin.requests


def test_what_a_rule_makes_of_a_url(tmp_path: Path) -> None:
    """A rule that yields an invalid URL is skipped; the next URL is tried."""
    with serving({"/a": reply(BODY)}) as origin:
        one = definition("a", f"{origin.url}/a", BODY, "    artifact-name: a\n")
        rule = "rewrite: [{match: '(http://.*/)(.*)', to: ['https://h:\\2/', direct]}]"
        here = written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/a.yml": one, "fetchdefs/mirrors.yml": rule})
        assert ran(doit(here)) == ["fetch:a"]


@pytest.mark.parametrize("rule", ["block: [localhost]", "allow: [127.0.0.1]", "allow: ['*']"])
def test_a_redirect_leads_only_to_allowed_hosts(rule: str, tmp_path: Path) -> None:
    """A redirect to a host that is blocked or not allowed is not followed."""
    with serving({"/b": reply(BODY)}) as other, serving({}) as origin:
        origin.answers["/a"] = reply(b"", "302 Found", Location=other.url.replace("127.0.0.1", "localhost") + "/b")
        (tmp_path / "dodo.py").write_text(DODO)
        (tmp_path / "fetchdefs/fetch").mkdir(parents=True)
        (tmp_path / "fetchdefs/fetch/a.yml").write_text(definition("a", f"{origin.url}/a", BODY))
        (tmp_path / "fetchdefs/mirrors.yml").write_text(f"{rule}\nblocked-message: ask Ann\n")
        done = doit(tmp_path, "fetch:a")
        assert (done.returncode == 0) == bool(other.requests) == ("*" in rule), done.stdout
        if "*" not in rule:
            assert re.search(
                r"a redirect to http://localhost:\d+ is not followed: localhost is .* by mirrors.yml: ask Ann",
                done.stdout,
            )


def test_through_doit(tmp_path: Path) -> None:
    """A content-addressed server replaces a dead origin; editing mirrors.yml does not fetch again."""
    sha = hashlib.sha256(BODY).hexdigest()
    with serving({f"/cas/{sha}": reply(BODY)}) as cache, serving({}) as origin:
        here = tmp_path / "r"
        (here / "fetchdefs/fetch").mkdir(parents=True)
        (here / "dodo.py").write_text(DODO)
        (here / "fetchdefs/fetch/a.yml").write_text(definition("a", "mirror://dead/a.bin", BODY))
        mirrors = here / "fetchdefs/mirrors.yml"
        mirrors.write_text(
            f"groups: {{dead: {{urls: {origin.url}/}}}}\ncontent-addressed: [{{url: '{cache.url}/cas/{{sha256}}'}}]\n"
        )
        assert ran(doit(here)) == ["fetch:a"]
        assert (origin.paths(), len(cache.requests)) == (["/a.bin"], 1)
        mirrors.write_text("groups: {dead: {urls: 'https://elsewhere.example/'}}\nblock: '*'\n")
        assert ran(doit(here)) == []


def test_an_index_of_taskcluster(tmp_path: Path) -> None:
    """The artifact of Taskgraph's task, behind the redirect of the index, replaces a dead origin."""
    digest = hashlib.sha256(
        f"--sha256\n{hashlib.sha256(BODY).hexdigest()}\n--size\n{len(BODY)}\na.bin".encode()
    ).hexdigest()
    task = f"/api/index/v1/task/dom.cache.level-3.content.v1.a.hash.{digest}/artifacts/public/a.bin"
    with serving({"/bucket/x": reply(BODY)}) as storage, serving({}) as cluster:
        cluster.answers[task] = reply(b"", "303 See Other", Location=f"{storage.url}/bucket/x")
        url = (
            cluster.url
            + "/api/index/v1/task/dom.cache.level-3.content.v1.{name}.hash.{taskgraph_digest}/artifacts/public/{artifact}"
        )
        files = {
            "dodo.py": DODO,
            "fetchdefs/fetch/a.yml": definition("a", f"{cluster.url}/gone/a.bin", BODY),
            "fetchdefs/mirrors.yml": f"content-addressed: [{{url: '{url}'}}]\n",
        }
        assert ran(doit(written(tmp_path, files))) == ["fetch:a"]
        assert cluster.paths() == ["/gone/a.bin", task]
