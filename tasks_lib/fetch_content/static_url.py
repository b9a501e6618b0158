"""`static-url`: fetch one file with a known digest, and repack it when the destination's name requires that."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import urlsplit

from tasks_lib.archive import Entry, Reshape, make_entry, read, repack, write
from tasks_lib.archive.writer import recompress
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download import Request
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, IntegrityError, SettingError, UnsupportedArchiveError
from tasks_lib.fetch_content.archive_detection import detect_archive
from tasks_lib.fetch_content.console import log
from tasks_lib.fetch_content.run import Run, open_run
from tasks_lib.formats import mtime_for
from tasks_lib.fs.atomic import require_replaceable
from tasks_lib.signature import MAX_SIGNATURE_BYTES
from tasks_lib.transport import origin_of, redacted

if TYPE_CHECKING:
    from tasks_lib.cache import Writer
    from tasks_lib.limits import Limits
    from tasks_lib.progress import Progress


_CHUNK: Final = 1 << 20
#: ELF, and Mach-O of both widths, byte orders and fat. Source: elf(5); mach-o/loader.h, mach-o/fat.h.
_PROGRAMS: Final = (
    b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticUrlOptions:
    """The flags; `single` is what to do with a file that is not an archive: "keep" it, or "wrap" it into one."""

    url: str
    dest: str
    sha256: str
    size: int
    headers: tuple[str, ...] = ()
    sig_url: str = ""
    key_env: str = ""
    strip: int = 0
    prefix: str = ""
    single: str = "keep"

    @property
    def original(self) -> str:
        """The name that decides about repacking: that of the URL, or of the destination if both end alike."""
        last = urlsplit(self.url).path.rpartition("/")[2]
        name = Path(self.dest).name
        return name if not last or last.endswith("".join(PurePosixPath(name).suffixes)) else last

    @property
    def needs_repack(self) -> bool:
        """Whether the file is repacked. Source: the contract, section 1.2."""
        before, after = PurePosixPath(self.original), PurePosixPath(Path(self.dest).name)
        if self.strip or self.prefix or self.single == "wrap":
            return True
        if before.suffixes == after.suffixes:
            return False
        return after.name.endswith(".tar.zst") or before.suffix != after.suffix


def static_url(request: StaticUrlOptions, environ: Mapping[str, str]) -> None:
    """Fetch, verify, repack and place a file.

    Raises:
        FetchError: a setting is invalid, or one of the steps failed; a subclass says which.
        OSError: the destination cannot be written.
    """
    if bool(request.sig_url) != bool(request.key_env):
        raise SettingError("--gpg-sig-url and --gpg-key-env must both be defined")
    for url in filter(None, (request.url, request.sig_url)):
        _check_url(url)
    dest = Path(request.dest)
    require_replaceable(dest, "destination")
    if request.needs_repack and not dest.name.endswith(".tar.zst"):
        reason = f"cannot repack {request.original} as {dest.name}: only .tar.zst archives are made"
        raise UnsupportedArchiveError(archive=request.original, reason=reason, code="WRONG_FORMAT")
    headers = _parse_headers(request.headers)
    digest = _parse_digest(request.sha256)
    with open_run(environ, dest.parent) as run:
        integrity = _fetch(run, request, headers, digest)
        if request.sig_url:
            _verify(run, request, integrity)
        if request.needs_repack:
            integrity = _repack(run, request, integrity)
        run.put(integrity, dest)


def _check_url(url: str) -> None:
    """Check that a URL has a valid host and port; the error does not quote the URL, which may contain secrets."""
    try:
        origin_of(url)
    except ValueError as error:
        raise SettingError(f"{redacted(url)}: invalid host or port", hint="write https://HOST/PATH") from error


def _parse_headers(texts: tuple[str, ...]) -> dict[str, str]:
    """Return the headers by name; a value may contain colons. A message has the position of a header, not its text."""
    headers = {}
    for number, text in enumerate(texts, 1):
        name, colon, value = text.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip()):
            raise SettingError(f"invalid --header, number {number}: expected 'Name: value'")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise SettingError(f"invalid --header {name}: the value contains control characters")
        headers[name.strip()] = value.strip()
    return headers


def _parse_digest(text: str) -> Digest | None:
    if not text:
        log("WARNING: no sha256 given: the download is not verified")
        return None
    try:
        return Digest.sha256(text)
    except ValueError as error:
        raise IntegrityError(f"invalid --sha256 {text[:80]!r}: expected 64 hex digits") from error


def _fetch(run: Run, request: StaticUrlOptions, headers: Mapping[str, str], digest: Digest | None) -> Integrity:
    begun = time.monotonic()
    integrity = _download(run, request, headers, digest)
    url = redacted(request.url)
    seconds = time.monotonic() - begun
    log(f"{url} resolved to {integrity.size} bytes with sha256 {integrity.digest.hex} in {seconds:.3f}s")
    if request.size > 0:
        log(f"Verified size of {url}")
    if digest is not None:
        log(f"Verified sha256 integrity of {url}")
    return integrity


def _download(run: Run, request: StaticUrlOptions, headers: Mapping[str, str], digest: Digest | None) -> Integrity:
    if digest is not None and request.size > 0:
        integrity = Integrity(size=request.size, digest=digest)
        wanted = Request(name=request.original, integrity=integrity, urls=(request.url,), headers=lambda: headers)
        try:
            run.sources.obtain(wanted, run.progress)
        except AllSourcesFailedError as error:
            if "Content-Encoding" not in str(error):
                raise
        else:
            return integrity
    asked = UnverifiedRequest(
        name=request.original,
        urls=(request.url,),
        limit=run.settings.limits.max_total_bytes,
        headers=headers,
        size=request.size or -1,
        digest=digest,
    )
    return run.obtain(asked)


def _verify(run: Run, request: StaticUrlOptions, integrity: Integrity) -> None:

    keys = run.environ.get(request.key_env)
    if keys is None:
        raise SettingError(f"the environment variable {request.key_env} (--gpg-key-env) is not set")
    asked = UnverifiedRequest(
        name=f"the signature of {request.original}", urls=(request.sig_url,), limit=MAX_SIGNATURE_BYTES
    )
    signature = run.unverified.obtain(asked, run.progress)
    with run.cache.open(integrity) as content, run.cache.open(signature) as file:
        verdict = run.gpg.verify(content, file.read(), keys=os.fsencode(keys), fingerprint="", progress=run.progress)
    log(f"Verified signature of {redacted(request.url)}: {verdict.key} ({verdict.signed_by})")
    if warning := verdict.warning(time.time()):
        log(f"WARNING: {warning}")


def _repack(run: Run, request: StaticUrlOptions, integrity: Integrity) -> Integrity:
    log(f"Repacking {request.original} as {request.dest}")
    # like upstream: keep symlinks as they are; extraction never writes through one
    limits = run.settings.limits._replace(outward_symlinks="keep")
    with run.cache.open(integrity) as file, run.cache.temporary() as spool, run.cache.writer() as writer:
        kind = detect_archive(file, request.original, limits)
        if kind is None:
            _wrap(run, file, request, integrity.size, spool, writer, limits)
        elif kind == "zip" or request.strip or request.prefix or _is_reshaped(limits):
            _reshape(run, file, request, kind, spool, writer, limits)
        else:
            _recompress(file, request, kind, writer, limits, run.progress)
        return writer.commit()


def _is_reshaped(limits: Limits) -> bool:
    """Return whether the identical tar would not be accepted without these options."""
    return limits.duplicates == "last" or limits.trailing == "ignore"


def _reshape(
    run: Run, file: BinaryIO, request: StaticUrlOptions, kind: str, spool: BinaryIO, writer: Writer, limits: Limits
) -> None:
    """Write the normalised archive, as `repack:NAME` does."""
    repack(
        file,
        name=request.original,
        format=kind,
        reshape=Reshape(strip=request.strip, prefix=request.prefix),
        limits=limits,
        mtime=mtime_for(run.settings.source_date_epoch),
        spool=spool,
        write=writer.write,
        progress=run.progress,
    )


def _recompress(
    file: BinaryIO, request: StaticUrlOptions, kind: str, writer: Writer, limits: Limits, progress: Progress
) -> None:
    """Write the identical tar, after reading and validating all of it."""
    content = _ContentReader(progress)
    check = functools.partial(
        read,
        file,
        name=request.original,
        format=kind,
        reshape=Reshape(),
        limits=limits,
        sink=content.add,
        repeats=content.repeats,
    )
    check()
    file.seek(0)
    if content.is_unsure():
        check()
        file.seek(0)
    recompress(file, format=kind, limits=limits, write=writer.write, progress=progress)


class _ContentReader:
    """Reader of the content of an archive, which is not stored.

    An archive in which a file is repeated is read a second time, to compare the digests of all files: most archives
    need no digests.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._digests: dict[bytes, tuple[int, bytes]] = {}
        self._state = "first pass"

    def is_unsure(self) -> bool:
        """Return whether the archive must be read again."""
        if self._state != "repeated":
            return False
        self._state = "second pass"
        return True

    def add(self, entry: Entry) -> None:
        """Read the content of an entry."""
        if self._state == "second pass" and entry.kind == "hardlink":
            self._digests[entry.path] = self._digests[entry.target]
        elif self._state == "second pass":
            self._digests[entry.path] = self._digest(entry)
        else:
            for _ in entry.chunks:
                self._progress.check()

    def repeats(self, entry: Entry) -> bool:
        """Return whether an entry repeats the earlier one of this name; True in the first pass."""
        if self._state == "second pass":
            return self._digests[entry.path] == self._digest(entry)
        self._state = "repeated"
        return True

    def _digest(self, entry: Entry) -> tuple[int, bytes]:
        digest = hashlib.sha256()
        for chunk in entry.chunks:
            self._progress.check()
            digest.update(chunk)
        return entry.executable, digest.digest()


def _wrap(
    run: Run, file: BinaryIO, request: StaticUrlOptions, size: int, spool: BinaryIO, writer: Writer, limits: Limits
) -> None:
    """Write an archive that contains only this file.

    Raises:
        UnsupportedArchiveError: wrapping was not requested, or --strip-components would remove the file's name.
    """
    if request.single != "wrap" or request.strip:
        wrapped = request.single == "wrap"
        reason = "cannot strip components of a single file" if wrapped else "not an archive in a known format"
        raise UnsupportedArchiveError(archive=request.original, reason=reason, code="WRONG_FORMAT")
    entries = _single_entry(file, request, size, limits)
    write(
        entries,
        name=request.original,
        limits=limits,
        mtime=mtime_for(run.settings.source_date_epoch),
        spool=spool,
        write=writer.write,
        progress=run.progress,
    )


def _single_entry(file: BinaryIO, request: StaticUrlOptions, size: int, limits: Limits) -> Iterator[Entry]:
    """Yield the one entry of a wrapped file; a program is executable."""
    start = file.read(4)
    file.seek(0)
    name = os.fsencode(request.prefix + request.original)
    chunks = iter(lambda: file.read(_CHUNK), b"")
    yield make_entry(name, "file", limits, size=size, executable=int(start in _PROGRAMS), chunks=chunks)


def report_duration(seconds: float, environ: Mapping[str, str]) -> None:
    """Log how long all artifacts took; in automation, also write it to the file that the environment names.

    Raises:
        OSError: the file cannot be written.
    """
    suite = {"name": "fetch_content", "value": seconds, "lowerIsBetter": True, "shouldAlert": False, "subtests": []}
    text = json.dumps({"framework": {"name": "build_metrics"}, "suites": [suite]})
    log(f"PERFHERDER_DATA: {text}")
    path = environ.get("PERFHERDER_FETCH_CONTENT_JSON_PATH")
    if path and environ.get("MOZ_AUTOMATION") == "1":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, "utf-8")
