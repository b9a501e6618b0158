"""Measured content: download what is not pinned yet, record where it came from, and look into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO, Final, NamedTuple

from tasks_lib import recipe
from tasks_lib.archive import Entry, Reshape, detect_content, detect_format, read
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import ArchiveError, EditError, IntegrityError
from tasks_lib.formats import SINGLE, format_from_name
from tasks_lib.limits import Limits
from tasks_lib.network import redacted
from tasks_lib.pins.naming import file_name, has_ending
from tasks_lib.progress import Progress

#: Bytes that are looked at to recognise a page.
_LOOK: Final = 512
_PAGES: Final = (".html", ".htm", ".xhtml")


class Measured(NamedTuple):
    """Downloaded content; `known` is where the cache had the same content from before, "" if it did not have it."""

    integrity: Integrity
    known: str


class Expected(NamedTuple):
    """A digest that content must have, and who says so."""

    digest: Digest
    by: str


def measure(
    context: Context,
    name: str,
    urls: tuple[str, ...],
    progress: Progress,
    *,
    written: str,
    headers: Mapping[str, str],
    expected: tuple[Expected, ...] = (),
) -> Measured:
    """Download content into the cache, so that a run with its definition finds it there.

    `name` is for messages; `urls` are in order of preference; `written` is the URL as the definition writes it.
    `headers` are sent to the first URL only. The content must have all `expected` digests.

    Raises:
        IntegrityError: the content has another digest.
        AllSourcesFailedError, OfflineError, CacheUnavailableError, CancelledError: as `UnverifiedDownloader.obtain`.
    """
    limit = context.settings.limits.max_total_bytes
    request = UnverifiedRequest(name=name, urls=urls, limit=limit, headers=headers, on_secret="refuse", encoding="keep")
    integrity = context.unverified.obtain(request, progress)
    for one in expected:
        if one.digest != integrity.digest:
            raise IntegrityError(
                f"{redacted(written)}: {one.by} has {one.digest}, the download has {integrity.digest}",
                hint="nothing was written: find out which of them is wrong",
            )
    cache = context.cache
    with cache.lock(integrity.digest.hex, progress, name):
        key = recipe.fetch_key(integrity)
        before = cache.result(key)
        result = before or Result(key=key, integrity=integrity)
        cache.record(result.with_origins({"url": redacted(urls[0])}, {written: redacted(written)}))
    return Measured(integrity, (before.origin or "an unknown URL") if before is not None else "")


def refuse_page(context: Context, integrity: Integrity, url: str) -> None:
    """Refuse a web page that came instead of a file.

    Raises:
        EditError: the content is HTML, and the URL does not say so.
    """
    with context.cache.open(integrity) as file:
        start = file.read(_LOOK).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")) and not file_name(url).lower().endswith(_PAGES):
        raise EditError(
            f"{redacted(url)} returned a web page, not a file",
            hint="open it in a browser, and use the URL of the download itself",
        )


class Shape(NamedTuple):
    """What a download is, by its content.

    `kind` is the format of an archive, "" for another file. `top` is its only top directory, "" for several or none.
    `format` is the format if its name declares another one. `fault` is why an archive is refused, "" if it is not.
    """

    kind: str = ""
    top: str = ""
    format: str = ""
    fault: str = ""


class _SeveralTopsError(Exception):
    """The archive has more than one top directory."""


def inspect(context: Context, integrity: Integrity, url: str, progress: Progress) -> Shape:
    """Return the shape of a download, by its content.

    Packages such as `.deb`, `.whl` and `.jar` are used as they are: they have no top directory to strip.

    Raises:
        BlobMissingError, BlobCorruptError, CacheUnavailableError, CancelledError: as `Cache.open`.
    """
    limits = context.limits(())
    name = file_name(url)
    declared = format_from_name(name)
    with context.cache.open(integrity) as file:
        try:
            if declared in (None, "deb"):
                kind = detect_format(file, name, limits)
            else:
                kind = detect_content(file, limits) or declared
            other = kind if declared is not None and kind is not None and kind != declared else ""
            if kind is None or kind in SINGLE:
                return Shape(format=other)
            if declared == "deb" or (declared is None and has_ending(name)):
                return Shape(kind=kind)
            return Shape(kind=kind, format=other, top=_find_top(file, name, kind, limits, progress.check))
        except ArchiveError as error:
            return Shape(fault=error.message)


def _find_top(file: BinaryIO, name: str, kind: str, limits: Limits, check: Callable[[], None]) -> str:
    """Return the only top directory of an archive that has something in it, else ""."""
    tops: dict[bytes, str] = {}
    depth = 0

    def see(entry: Entry) -> None:
        nonlocal depth
        first, _, rest = entry.path.partition(b"/")
        depth = max(depth, bool(rest))
        tops.setdefault(first, "directory" if rest else entry.kind)
        if len(tops) > 1 or tops[first] != "directory":
            raise _SeveralTopsError

    try:
        read(file, name=name, format=kind, reshape=Reshape(), limits=limits, sink=see, check=check)
    except _SeveralTopsError:
        return ""
    return next(iter(tops)).decode("utf-8", "replace") if tops and depth else ""
