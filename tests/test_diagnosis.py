"""Diagnosis of wrong bytes, and the quarantine that keeps them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from tasks_lib.cache import Cache, quarantine
from tasks_lib.cache.quarantine import Quarantine
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.diagnosis import diagnose
from tasks_lib.errors import AllSourcesFailedError, CancelledError
from tasks_lib.progress import Silent
from tests.archives import Member, blocks, pax, record, tar
from tests.origin import reply, serving
from tests.test_downloader import BODY, sources, wanted

GOOD = tar([Member("p-1/"), Member("p-1/a", b"one" * 900), Member("p-1/b", b"two"), Member("p-1/c", b"three")])
CHANGED = tar([Member("p-1/"), Member("p-1/a", b"ONE" * 900), Member("p-1/b", b"two"), Member("p-1/d", b"four")])
PROMISED = gzip.compress(GOOD, mtime=0)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def verdict(content: bytes, earlier: tuple[Path, ...] = (), size: int = -1, **more: Any) -> tuple[str, str]:
    integrity = Integrity(size=len(PROMISED), digest=Digest.sha256(hashlib.sha256(PROMISED).hexdigest()))
    actual = len(content) if size < 0 else size
    file = io.BytesIO(content)
    found = diagnose(file, size=actual, expected=integrity, name="p-1.tar.gz", earlier=earlier, **more)
    return found.words, found.advice


WORDS = {
    "nothing": (b"", "an empty response"),
    "page": (b"<!-- x -->\n<!DOCTYPE HTML><head><title>\n Sign  in &amp; go</title>", 'an HTML page titled "Sign in &amp; go"'),
    "page without a title": (b"  <html><p>Moved", 'an HTML page that begins with "<html><p>Moved"'),
    "page with escapes": (b"<title>\x1b[31mred", 'an HTML page titled "\\x1b[31mred"'),
    "page of comments": (b"<!-- x -->\n" * 40 + b"moved", 'it begins with "<!-- x --> <!-- x -->'),
    "comments before a page": (b"<!-- x -->\n" * 5000 + b"<html>", 'an HTML page that begins with "<!-- x -->'),
    "comment without an end": (b"<!--" * 9000, 'it begins with "<!--<!--'),
    "titles without an end": (b"<html>" + b"<title" * 9000, 'an HTML page that begins with "<html><title<title'),
    "XML errors without a code": (b"<?xml ?>" + b"<Error>" * 8000, 'it begins with "<?xml ?><Error><Error>'),
    "JSON": (b'{"message": "API rate limit exceeded", "code": 7}', "a JSON error: API rate limit exceeded"),
    "JSON within": (b'{"error": {"message": "no such file"}}', "a JSON error: no such file"),
    "JSON list": (b'[{"a": 1}]', 'a JSON error: [{"a": 1}]'),
    "deep JSON": (b"[" * 50_000, "longer than expected"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML error: AccessDenied"),
    "LFS": (LFS, "a Git LFS pointer"),
    "gzip on top": (gzip.compress(PROMISED), "the right content, compressed with gzip"),
    "cut": (PROMISED[:-9], "truncated by 9 bytes"),
    "text": (b"please wait", 'or a different file; it begins with "please wait"'),
    "other": (PROMISED[:-9] + b"x" * 9, "different content of the same size"),
    "another archive": (gzip.compress(CHANGED, mtime=0), "a complete archive with different content"),
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_words(case: str) -> None:
    """The diagnosis names each kind of wrong content, is printable, and has a next step."""
    content, expected = WORDS[case]
    words, advice = verdict(content)
    assert expected in words
    assert words.isprintable()
    assert len(advice) > 20


def test_time_is_limited(tmp_path: Path) -> None:
    """The explanation ends with the attempt; what takes no time is still said, and a request to stop is heard."""
    earlier = tmp_path / "p-1.tar.gz"
    earlier.write_bytes(PROMISED)
    content = gzip.compress(CHANGED, mtime=0)

    def stop() -> None:
        raise CancelledError("interrupted")

    with pytest.raises(CancelledError):
        verdict(content, (earlier,), check=stop)
    assert "a different file" in verdict(content, (earlier,), ends=0.0)[0]
    assert "an HTML page" in verdict(b"<html>moved", ends=0.0)[0]


def test_metadata_without_entries_is_interrupted() -> None:
    """A request to stop is heard while headers without any entry are read."""
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise CancelledError("interrupted")

    content = gzip.compress(blocks([pax(record("comment", "x" * 500_000), kind=b"g")]) * 20)
    with pytest.raises(CancelledError):
        verdict(content, check=stop)


def test_recompressed(tmp_path: Path) -> None:
    """The diagnosis distinguishes recompressed from changed members, and gives the next step for both."""
    earlier = tmp_path / "p-1.tar.gz"
    earlier.write_bytes(PROMISED)
    assert verdict(gzip.compress(GOOD, 1, mtime=5), (earlier,))[0].startswith(
        "recompressed: the same content as before"
    )
    words, _ = verdict(gzip.compress(CHANGED, mtime=0), (earlier,))
    assert words == "re-released: these members differ from before: p-1/a, p-1/c, p-1/d"


def test_repacked_before(tmp_path: Path) -> None:
    """An archive with another top-level directory is compared too."""
    earlier = tmp_path / "p.tar.xz"
    earlier.write_bytes(lzma.compress(tar([Member("q/a", b"one" * 900), Member("q/b", b"2"), Member("q/c", b"three")])))
    words, _ = verdict(gzip.compress(GOOD, mtime=7), (earlier,))
    assert words == "re-released: these members differ from before: b"


def test_damaged_evidence_says_nothing(tmp_path: Path) -> None:
    """An earlier artifact that is unreadable or not an archive does not prevent the diagnosis."""
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8bbroken")
    words, _ = verdict(gzip.compress(CHANGED, mtime=0), (tmp_path / "x.tar.gz", tmp_path / "none.tar"))
    assert words.startswith("a complete archive with different content")


def test_through_the_store(tmp_path: Path) -> None:
    """The report has the content, source, time, next step and the path of the bytes, and is printable."""
    store = Cache(tmp_path / "cache")
    kept = tmp_path / "cache/artifacts/a/0123456789abcdef/p-1.tar.gz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(PROMISED)
    wrong = gzip.compress(CHANGED, mtime=0)
    date = "Tue, 24 Nov 2026 20:17:52 GMT"
    with serving({"/p-1.tar.gz": reply(wrong, Date=date, Content_Type="application/gzip")}) as origin:
        one = wanted(f"{origin.url}/p-1.tar.gz?token=hunter2", content=(len(PROMISED), "0" * 64))
        with pytest.raises(AllSourcesFailedError) as caught:
            sources(store).obtain(one, Silent())
    lines = str(caught.value).splitlines()
    assert lines[3:] == [f"    sha256: {hashlib.sha256(wrong).hexdigest()}", f"    size: {len(wrong)}"]
    assert f"(HTTP 200 application/gzip from {origin.url}/p-1.tar.gz?..., {date})" in lines[1]
    assert "re-released: these members differ from before: p-1/a, p-1/c, p-1/d" in lines[1]
    assert "ask upstream why the content changed" in lines[2]
    assert "hunter2" not in str(caught.value)
    evidence = Path(lines[1].rpartition("kept as ")[2])
    assert evidence.read_bytes() == wrong
    assert "re-released" in evidence.with_name(f"{evidence.name}.reason").read_text()


def test_quarantine_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quarantine is limited in number and bytes; the newest content stays, with its reason."""
    monkeypatch.setattr(quarantine, "MAX_FILES", 3)
    monkeypatch.setattr(quarantine, "MAX_BYTES", 1000)
    kept = Quarantine(tmp_path / "q")
    for number in range(9):
        (tmp_path / "wrong").write_bytes(bytes(400))
        kept.take(tmp_path / "wrong", f"{number}.download", f"reason {number}")
    left = sorted(path.name for path in (tmp_path / "q").iterdir())
    assert len(left) == 4
    assert left[-2:] == ["8.download", "8.download.reason"]
    (tmp_path / "wrong").write_bytes(bytes(5000))
    assert kept.take(tmp_path / "wrong", "large", "r").stat().st_size == 1000
    assert sorted(path.name for path in (tmp_path / "q").iterdir()) == ["large", "large.reason"]
    assert not (tmp_path / "wrong").exists()


def test_truncated_says_by_how_much(tmp_path: Path) -> None:
    """The error for a server that announces too few bytes gives the number of missing bytes."""
    with serving({"/a": reply(b"\x00" * 500)}) as origin, pytest.raises(AllSourcesFailedError) as caught:
        sources(Cache(tmp_path / "c")).obtain(wanted(f"{origin.url}/a"), Silent())
    assert f"truncated by {len(BODY) - 500} bytes" in str(caught.value)
    assert json.dumps(str(caught.value)).isascii()
