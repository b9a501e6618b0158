"""`doit audit`: every finding with what causes it, advisories, and the three forms of the output."""

from __future__ import annotations

import contextlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.definitions import SourceFile, parse
from tasks_lib.pins.audit import AuditReport, audit
from tasks_lib.pins.purl import describe_purl, find_purl, parse_purl
from tasks_lib.progress import Silent
from tasks_lib.session import Session
from tasks_lib.settings import Settings
from tests.keys import keyring
from tests.origin import Answer, Origin, OriginRequest, ranged, reply
from tests.project import DODO, definition, doit, written
from tests.test_program import program

CONTENT = b"content"


def reports(top: Path, *, osv: str = "", **environ: str) -> dict[str, AuditReport]:
    """Return the reports of an audit in this process, by name."""
    with contextlib.chdir(top):
        settings = Settings.parse(variables={}, environ={"FETCH_RETRIES": "0", "FETCH_DURABILITY": "fast", **environ})
        session = Session(settings, {"PATH": os.environ["PATH"], **environ})
        found = audit(session.context, list(session.definitions.fetches.values()), osv, Silent())
        return {one.name: one for one in found}


def project(top: Path, fetches: str) -> Path:
    return written(top, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": fetches})


def codes(report: AuditReport) -> list[str]:
    return [finding.code for finding in report.findings]


def says(report: AuditReport, code: str) -> str:
    """Return the message of the only finding with a code."""
    (message,) = [finding.message for finding in report.findings if finding.code == code]
    return message


@pytest.fixture
def clean(origin: Origin) -> Callable[..., str]:
    """Return a function that makes a definition with two sources that answer."""
    origin.answers["/"] = reply(b'<a href="lib-1.0.tar">')
    origin.answers |= {"/m/lib-1.0.tar": ranged(CONTENT), "/lib-1.0.tar": ranged(CONTENT)}
    return lambda more="", name="lib": definition(
        name, f"{origin.url}/lib-1.0.tar", CONTENT, f"    mirrors: ['{origin.url}/m/lib-1.0.tar']\n{more}"
    )


def test_plain_http_and_one_source(tmp_path: Path, origin: Origin) -> None:
    """Plain http and a single source are findings; nothing is downloaded."""
    origin.answers |= {"/lib-1.0.tar": ranged(CONTENT), "/": reply(b'<a href="lib-1.0.tar">')}
    report = reports(project(tmp_path, definition("lib", f"{origin.url}/lib-1.0.tar", CONTENT)))["lib"]
    assert codes(report) == ["plain-http", "one-source"]
    assert says(report, "one-source").startswith(f"only {origin.url}/lib-1.0.tar has the content")
    assert (report.file, report.line) == ("fetchdefs/fetch/all.yml", 1)
    (request,) = [one for one in origin.requests if one.path == "/lib-1.0.tar"]
    assert request.headers["range"] == "bytes=0-0"
    assert "advisories: no source was given; use --osv" in report.not_covered


def gone(status: str) -> Answer:
    return reply(b"", status)


SOURCES = {
    "gone": (gone("404 Not Found"), "dead-source", "HTTP status 404: the file is gone"),
    "broken": (gone("500 Oops"), "dead-source", "HTTP status 500"),
    "moved": (gone("301 Moved Permanently"), "redirect-drift", "invalid redirect"),
    "another size": (ranged(CONTENT + b"x"), "redirect-drift", "serves content of another size"),
    "another length": (reply(CONTENT + b"x"), "redirect-drift", "announces 8 bytes instead of 7"),
    "page": (
        reply(b"<html>", Content_Type="text/html", Content_Length="", Transfer_Encoding=""),
        "redirect-drift",
        "a page of a browser",
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_source_that_fails(tmp_path: Path, origin: Origin, clean: Callable[..., str], case: str) -> None:
    """A source without the content, or with another one, is a finding although the other source has it."""
    answer, code, message = SOURCES[case]
    fetches = clean()
    origin.answers["/lib-1.0.tar"] = answer
    report = reports(project(tmp_path, fetches))["lib"]
    assert message in says(report, code)


def test_a_dead_host(tmp_path: Path, clean: Callable[..., str]) -> None:
    """A host that does not answer is a finding."""
    top = project(tmp_path, clean().replace("mirrors: ['", "mirrors: ['http://127.0.0.1:1/x.tar', '"))
    assert "connection refused" in says(reports(top)["lib"], "dead-source")


@pytest.mark.parametrize("status", ["403 Forbidden", "429 Too Many"])
def test_a_source_that_says_nothing(tmp_path: Path, origin: Origin, clean: Callable[..., str], status: str) -> None:
    """A refusal says nothing about the content: it is not covered."""
    fetches = clean()
    origin.answers["/lib-1.0.tar"] = gone(status)
    report = reports(project(tmp_path, fetches))["lib"]
    assert codes(report) == ["plain-http"] * 2
    assert f"sources: {origin.url}/lib-1.0.tar: HTTP status {status[:3]}" in report.not_covered


def to(url: str, status: str = "302 Found") -> Answer:
    return reply(b"", status, Location=url)


def test_redirects(tmp_path: Path, origin: Origin, clean: Callable[..., str]) -> None:
    """A permanent redirect is a finding, a temporary one only if the last download found none or another host."""
    top = project(tmp_path, clean())
    origin.answers["/lib-1.0.tar"] = to(f"{origin.url}/m/lib-1.0.tar", "301 Moved Permanently")
    assert (
        says(reports(top)["lib"], "redirect-drift")
        == f"{origin.url}/lib-1.0.tar moved permanently to {origin.url}/m/lib-1.0.tar"
    )
    origin.answers["/lib-1.0.tar"] = to(f"{origin.url}/m/lib-1.0.tar")
    assert codes(reports(top)["lib"]) == ["plain-http"] * 2
    origin.answers["/lib-1.0.tar"] = ranged(CONTENT)
    assert program(top, "path", "lib").returncode == 0
    assert codes(reports(top)["lib"]) == ["plain-http"] * 2
    origin.answers["/lib-1.0.tar"] = to(f"{origin.url}/m/lib-1.0.tar")
    assert f"redirects to {origin.url}/m/lib-1.0.tar now" in says(reports(top)["lib"], "redirect-drift")


def test_signatures_beside_the_file(tmp_path: Path, origin: Origin, clean: Callable[..., str]) -> None:
    """A sibling with a signature is a finding; a page in HTML is the answer of a server that has none."""
    top = project(tmp_path, clean())
    origin.answers["/lib-1.0.tar.sig"] = reply(b"<html>", Content_Type="text/html")
    origin.answers["/lib-1.0.tar.sign"] = reply(b"no such file", Content_Type="text/plain")
    assert "unused-signature" not in codes(reports(top)["lib"])
    origin.answers["/lib-1.0.tar.asc"] = reply(
        b"-----BEGIN PGP SIGNATURE-----\n", Content_Type="application/pgp-signature"
    )
    assert says(reports(top)["lib"], "unused-signature").startswith(f"{origin.url}/lib-1.0.tar.asc exists")


@pytest.mark.parametrize(("expires", "found"), [("30d", "expires in "), ("120d", ""), ("never", "")])
def test_key_expiry(tmp_path: Path, clean: Callable[..., str], expires: str, found: str) -> None:
    """A key that expires within 90 days is a finding."""
    with keyring() as ring:
        fingerprint = ring.make("me", expires=expires)
        keys = ring.public("me", armor=True)
    signed = f"    gpg-signature: {{sig-url: '{{url}}.sig', key-path: keys/me.asc, fingerprint: {fingerprint}}}\n"
    top = project(tmp_path, clean(signed))
    (top / "keys").mkdir()
    (top / "keys/me.asc").write_bytes(keys)
    report = reports(top)["lib"]
    assert [one.message for one in report.findings if one.code == "key-expiry"] == (
        [
            f"key {fingerprint} of keys/me.asc {found}{29 if '29' in str(report) else 30} days, on {time.strftime('%Y-%m-%d', time.gmtime(time.time() + 30 * 86400))}"
        ]
        if found
        else []
    )


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("o/r/archive/refs/tags/v1.0.tar.gz", True), ("g/s/p/-/archive/v1.0/p-v1.0.tar.gz", True), ("o/r/tarball/v1.0", True),
        ("o/r/releases/download/v1.0/r-1.0.tar.gz", False), ("pub/archive-1.0.tar.gz", False), ("archive/1.0/x.tar.gz", False),
    ],
)  # fmt: skip
def test_generated_archives(tmp_path: Path, path: str, found: bool) -> None:
    """Archives that a forge makes on demand are a finding; files of a release are not."""
    report = reports(project(tmp_path, definition("x", f"https://h/{path}", CONTENT)), FETCH_OFFLINE="1")["x"]
    assert ("generated-archive" in codes(report)) is found
    assert "sources and signatures: the network is off" in report.not_covered


def test_versions_that_cannot_be_looked_up(tmp_path: Path) -> None:
    """A version without a source of newer ones is a finding; without a version nothing is known."""
    fetches = definition("x", "https://h/get?f=x-1.0.tar", CONTENT, "    artifact-name: x\n") + definition(
        "y", "https://h/y", CONTENT
    )
    found = reports(project(tmp_path, fetches), FETCH_OFFLINE="1")
    assert "newer versions cannot be looked up: the path has no version; add `fetch.update`" in says(
        found["x"], "no-update-source"
    )
    assert codes(found["y"]) == ["one-source"]
    assert "newer versions: the URL has no version" in found["y"].not_covered


# --- advisories


def advisory(identity: str, package: dict[str, str] | None = None, **affected: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "summary": f"about {identity}",
        "modified": "2026-01-01T00:00:00Z",
        "affected": [{"package": package, **affected}],
    }


def events(*pairs: str, kind: str = "ECOSYSTEM", repo: str = "") -> dict[str, Any]:
    listed = [dict([pair.split("=")]) for pair in pairs]
    return {"type": kind, "events": listed, **({"repo": repo} if repo else {})}


def dump(top: Path, **ecosystems: list[Any]) -> Path:
    for name, records in ecosystems.items():
        (top / name).mkdir(parents=True)
        with zipfile.ZipFile(top / name / "all.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for number, record in enumerate(records):
                text = record if isinstance(record, str) else json.dumps(record)
                file.writestr(f"{number}.json", text)
    return top


FLASK = {"ecosystem": "PyPI", "name": "Flask", "purl": "pkg:pypi/flask"}
COMMIT, OTHER = "a" * 40, "b" * 40


def test_advisories_of_a_package(tmp_path: Path) -> None:
    """An advisory counts if its range or list has the version; withdrawn ones and broken ones do not."""
    records = [
        advisory("HIT-1", FLASK, ranges=[events("introduced=0", "fixed=2.3.2")]),
        advisory("HIT-2", {"ecosystem": "PyPI", "name": "flask"}, ranges=[events("introduced=2.2", "last_affected=2.3.0")]),
        advisory("HIT-3", FLASK, versions=["1.0", "2.3"]),
        advisory("HIT-4", FLASK, ranges=[events("introduced=1.0", "fixed=1.1", "introduced=2.3.0a1", "fixed=2.3.10")]),
        advisory("MISS-1", FLASK, ranges=[events("introduced=0", "fixed=2.2.5", "introduced=2.3.1")]),
        advisory("MISS-2", FLASK, ranges=[events("introduced=0", "fixed=2.3")], versions=["2.2"]),
        advisory("MISS-3", {"ecosystem": "PyPI", "name": "flask-login"}, ranges=[events("introduced=0")]),
        advisory("MISS-4", {"ecosystem": "npm", "name": "flask"}, ranges=[events("introduced=0")]),
        {**advisory("GONE", FLASK, ranges=[events("introduced=0")]), "withdrawn": "2026-01-01T00:00:00Z"},
        "{", "[]", '{"id": 3}', "[" * 10_000,
    ]  # fmt: skip
    url = "https://h/packages/ab/cd/ef01/Flask-2.3.0-py3-none-any.whl"
    fetches = definition("flask", url, CONTENT)
    fetches += definition("own", "https://h/x.tar", CONTENT, "    purl: pkg:pypi/flask@2.3.2\n")
    fetches += definition("crate", "https://h/crates/serde/serde-1.0.crate", CONTENT) + definition(
        "plain", "https://h/plain", CONTENT
    )
    top = project(tmp_path / "top", fetches)
    found = reports(top, osv=str(dump(tmp_path / "osv", PyPI=records)), FETCH_OFFLINE="1")
    messages = [one.message for one in found["flask"].findings if one.code == "advisory"]
    assert messages == [
        "HIT-1: about HIT-1; fixed in 2.3.2", "HIT-2: about HIT-2", "HIT-3: about HIT-3", "HIT-4: about HIT-4; fixed in 2.3.10",
    ]  # fmt: skip
    assert "advisory" in codes(found["own"])
    assert [one.message[:6] for one in found["own"].findings if one.code == "advisory"] == ["HIT-4:", "MISS-1"]
    assert "advisories: crates.io/all.zip is missing" in found["crate"].not_covered
    assert "advisories: no package URL; add `fetch.purl`" in found["plain"].not_covered


def test_advisories_of_a_commit(tmp_path: Path) -> None:
    """A commit that an advisory names is affected; one that only the history can place is not covered."""
    repo = "https://github.com/o/r"
    git = {"kind": "GIT", "repo": f"{repo}.git"}
    records = [
        advisory("HIT-1", ranges=[events(f"introduced={COMMIT}", f"fixed={OTHER}", **git)]),
        advisory("HIT-2", ranges=[events("introduced=0", **git)]),
        advisory("HIT-3", ranges=[events("introduced=0", f"fixed={OTHER}", **git)], versions=["v1.0"]),
        advisory("UNCLEAR", ranges=[events("introduced=0", f"fixed={OTHER}", **git)]),
        advisory("FIXED", ranges=[events("introduced=0", f"fixed={COMMIT}", **git)]),
        advisory("ELSE", ranges=[events("introduced=0", kind="GIT", repo="https://github.com/o/other")]),
    ]
    fetches = f"r:\n  description: d\n  fetch: {{type: git, repo: '{repo}', revision: {COMMIT}, artifact-name: r-1.0.tar.zst}}\n"
    fetches += definition("file", f"{repo}/releases/download/v1.0/r.tar.gz", CONTENT)
    top = project(tmp_path / "top", fetches)
    found = reports(top, osv=str(dump(tmp_path / "osv", GIT=records)), FETCH_OFFLINE="1")
    hits = {
        name: [one.message.partition(":")[0] for one in report.findings if one.code == "advisory"]
        for name, report in found.items()
    }
    assert hits == {"r": ["HIT-1", "HIT-2", "HIT-3"], "file": ["HIT-3"]}
    assert any("the history is needed to compare the version with" in text for text in found["file"].not_covered)
    assert "advisories: the history is needed to compare the commit with UNCLEAR" in found["r"].not_covered


def test_advisories_of_other_packages(tmp_path: Path) -> None:
    """A package of another type may be named by its package URL; Debian's binary packages are not covered."""
    records = [advisory("HIT", {"ecosystem": "", "name": "z", "purl": "pkg:generic/z"}, versions=["1.0"])]
    fetches = definition("z", "https://h/z", CONTENT, "    purl: pkg:generic/z@1.0\n") + definition(
        "deb", "https://h/pool/z/z_1.0_amd64.deb", CONTENT
    )
    fetches += definition("jar", "https://h/maven2/org/a/b/1.0/b-1.0.jar", CONTENT)
    java = [advisory("JAR", {"ecosystem": "Maven", "name": "org.a:b"}, ranges=[events("introduced=0", "fixed=1.0.1")])]
    found = reports(
        project(tmp_path / "top", fetches),
        osv=str(dump(tmp_path / "osv", Other=records, Maven=java, Debian=[])),
        FETCH_OFFLINE="1",
    )
    assert says(found["z"], "advisory") == "HIT: about HIT"
    assert "advisories: OSV has no ecosystem for packages of type generic" in found["z"].not_covered
    assert says(found["jar"], "advisory") == "JAR: about JAR; fixed in 1.0.1"
    assert any("name source packages" in text for text in found["deb"].not_covered)


def test_advisories_from_a_server(tmp_path: Path, origin: Origin) -> None:
    """The archives may be below a URL; one that is missing is not covered."""
    dump(tmp_path / "osv", PyPI=[advisory("HIT", FLASK, ranges=[events("introduced=0")])])
    origin.answers["/osv/PyPI/all.zip"] = reply((tmp_path / "osv/PyPI/all.zip").read_bytes())
    fetches = definition("flask", "https://h/packages/ab/cd/ef01/Flask-2.3.0-py3-none-any.whl", CONTENT)
    fetches += definition("crate", "https://h/crates/serde/serde-1.0.crate", CONTENT)
    found = reports(
        project(tmp_path / "top", fetches.replace("https://h", "http://127.0.0.1:1")), osv=f"{origin.url}/osv"
    )
    assert says(found["flask"], "advisory") == "HIT: about HIT"
    assert "advisories: crates.io/all.zip is missing" in found["crate"].not_covered


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_broken_dump(tmp_path: Path, content: bytes | None) -> None:
    """A damaged archive and a missing directory are errors, not an all-clear."""
    top = project(tmp_path / "top", definition("x", "https://h/x", CONTENT, "    purl: pkg:pypi/x@1\n"))
    place = tmp_path / "osv"
    if content is not None:
        dump(place, PyPI=[])
        (place / "PyPI/all.zip").write_bytes(content)
    done = doit(top, "audit", "--offline", "--osv", str(place))
    assert (done.returncode, "Traceback" in done.stdout) == (1 if content is not None else 3, False), done.stdout


# --- package URLs

PURLS = {
    "https://h/packages/ab/cd/ef01/requests-2.31.0-py3-none-any.whl": "pkg:pypi/requests@2.31.0",
    "https://h/packages/source/p/PyYAML/PyYAML-6.0.1.tar.gz": "pkg:pypi/pyyaml@6.0.1",
    "https://h/packages/ab/cd/ef01/zope.interface-6.0-cp311-cp311-manylinux_2_17_x86_64.whl": "pkg:pypi/zope-interface@6.0",
    "https://h/@babel/core/-/core-7.23.0.tgz": "pkg:npm/%40babel/core@7.23.0",
    "https://h/npm/lodash/-/lodash-4.17.21.tgz": "pkg:npm/lodash@4.17.21",
    "https://h/api/v1/crates/serde/1.0.190/download": "pkg:cargo/serde@1.0.190",
    "https://h/crates/serde_json/serde_json-1.0.1.crate": "pkg:cargo/serde_json@1.0.1",
    "https://h/gems/rails-7.1.0.gem": "pkg:gem/rails@7.1.0",
    "https://h/proxy/github.com/pkg/errors/@v/v0.9.1.zip": "pkg:golang/github.com/pkg/errors@v0.9.1",
    "https://h/maven2/org/apache/commons/commons-lang3/3.12.0/commons-lang3-3.12.0.jar": "pkg:maven/org.apache.commons/commons-lang3@3.12.0",
    "https://h/debian/pool/main/z/zlib/zlib1g_1.2.13.dfsg-1_amd64.deb": "pkg:deb/debian/zlib1g@1.2.13.dfsg-1?arch=amd64",
    "https://github.com/O/r/releases/download/v1.2/x.tgz": "pkg:github/o/r@v1.2",
    "https://github.com/O/r/archive/refs/tags/v1.2.tar.gz": "pkg:github/o/r@v1.2",
    "https://h/x-1.0.tgz": "",
}


@pytest.mark.parametrize(("url", "purl"), PURLS.items())
def test_package_of_a_url(url: str, purl: str) -> None:
    """The shape of a URL suggests the package; a file of no registry is generic."""
    text = definition("x", url, CONTENT) + "    artifact-name: x\n"
    fetch = parse([SourceFile(kind="fetch", path="f.yml", text=text)]).fetch("x")
    assert str(find_purl(fetch) or "") == purl
    described = describe_purl(fetch)
    assert str(described) == purl or (described.kind == "generic" and described.version == "1.0")
    assert str(parse_purl(str(described))) == str(described)


# --- the output


def test_output(tmp_path: Path, origin: Origin, clean: Callable[..., str]) -> None:
    """JSON and SARIF name the line of the definition; the status says whether something was found."""
    top = project(tmp_path, "# a comment\n\n" + clean() + clean(name="b"))
    origin.answers["/lib-1.0.tar.asc"] = reply(b"-----BEGIN PGP SIGNATURE-----\n", Content_Type="text/plain")
    text = doit(top, "audit", "b")
    assert text.returncode == 1
    place = "fetchdefs/fetch/all.yml:11: b: "
    assert f"{place}unused-signature: {origin.url}/lib-1.0.tar.asc exists" in text.stdout
    assert f"{place}not covered: advisories" in text.stdout
    done = program(top, "audit", "--json")
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert [[*row] for row in rows] == [["name", "file", "line", "findings"]] * 2
    assert [(row["name"], row["file"], row["line"]) for row in rows] == [
        ("lib", "fetchdefs/fetch/all.yml", 3),
        ("b", "fetchdefs/fetch/all.yml", 11),
    ]
    assert {tuple(finding) for row in rows for finding in row["findings"]} == {("code", "message")}
    assert "lib: not covered: advisories" in done.stderr
    log = json.loads(program(top, "audit", "--sarif", "lib").stdout)
    check_sarif(log)
    (run,) = log["runs"]
    assert {result["ruleId"] for result in run["results"]} == {"plain-http", "unused-signature"}
    assert run["results"][0]["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "fetchdefs/fetch/all.yml"}, "region": {"startLine": 3}}}
    ]


def check_sarif(log: Any) -> None:
    """Check what SARIF 2.1.0 requires of the parts that are used. Source: OASIS Standard, sections 3.13 to 3.58."""
    assert {*log} == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    for run in log["runs"]:
        assert {*run} == {"tool", "invocations", "results"}
        rules = run["tool"]["driver"]["rules"]
        assert run["tool"]["driver"]["name"]
        assert len({rule["id"] for rule in rules}) == len(rules)
        assert all(rule["shortDescription"]["text"] for rule in rules)
        notes = [note for one in run["invocations"] for note in one["toolExecutionNotifications"]]
        assert all(isinstance(one["executionSuccessful"], bool) for one in run["invocations"])
        for result in [*run["results"], *notes]:
            assert result["level"] in ("none", "note", "warning", "error")
            assert result["message"]["text"]
            for location in result["locations"]:
                physical = location["physicalLocation"]
                assert not physical["artifactLocation"]["uri"].startswith("/")
                assert physical["region"]["startLine"] >= 1
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]


@pytest.mark.slow
def test_nothing_found(tmp_path: Path) -> None:
    """Without a finding the status is 0, and the output says what was not covered."""
    (tmp_path / "x").write_bytes(CONTENT)
    top = project(
        tmp_path / "top", definition("x", f"file://{tmp_path}/x", CONTENT, f"    mirrors: ['file://{tmp_path}/y']\n")
    )
    done = doit(top, "audit")
    assert (done.returncode, "1 definition: 0 findings; not covered: 2" in done.stdout) == (0, True), done.stdout
    for words in (("--json", "--sarif"), ("--format=json", "--sarif")):
        assert doit(top, "audit", *words).returncode == 3
    (top / "fetchdefs/fetch/all.yml").write_text("x: {}\n")
    assert doit(top, "audit").returncode == 2


@pytest.mark.slow
def test_hostile_text(tmp_path: Path, origin: Origin) -> None:
    """Text of servers and advisories reaches a terminal escaped."""

    def refuse(connection: Any, request: OriginRequest) -> None:
        reply(b"", "500 \x1b[31m##[error]")(connection, request)

    origin.answers["/x-1.0.tar"] = refuse
    record = advisory("X\x1b[1m", {"ecosystem": "PyPI", "name": "x"}, versions=["1"])
    dump(tmp_path / "osv", PyPI=[record])
    top = project(tmp_path / "top", definition("x", f"{origin.url}/x-1.0.tar", CONTENT, "    purl: pkg:pypi/x@1\n"))
    done = doit(top, "audit", "--osv", str(tmp_path / "osv"))
    assert done.returncode == 1
    assert "X\\x1b[1m" in done.stdout
    assert "\x1b" not in done.stdout
