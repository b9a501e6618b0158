"""`static-url`: one file with a promised digest, repacked where its name asks for that."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import urlsplit

from tasks_lib.digest import Digest, Integrity
from tasks_lib.download import Request
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, IntegrityError, SettingError, UnsupportedArchiveError
from tasks_lib.fetch_content.porch import log
from tasks_lib.fetch_content.run import Run, destination, running
from tasks_lib.transport import origin_of, redacted

if TYPE_CHECKING:
    from tasks_lib.archive import Entry
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
    """The flags; `single` says what becomes of a file that is no archive: "keep" or "wrap"."""

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
        """The name that decides about a repack: the destination's own, when the URL's name ends like it."""
        last = urlsplit(self.url).path.rpartition("/")[2]
        name = Path(self.dest).name
        return name if not last or last.endswith("".join(PurePosixPath(name).suffixes)) else last

    @property
    def needs_repack(self) -> bool:
        """Whether another archive is made. Source: the contract, section 1.2."""
        before, after = PurePosixPath(self.original), PurePosixPath(Path(self.dest).name)
        if self.strip or self.prefix or self.single == "wrap":
            return True
        if before.suffixes == after.suffixes:
            return False
        return after.name.endswith(".tar.zst") or before.suffix != after.suffix


def static_url(request: StaticUrlOptions, environ: Mapping[str, str]) -> None:
    """Fetch, verify, repack and place.

    Raises:
        FetchError: whatever prevented it, in one of its kinds.
        OSError: the destination cannot be written.
    """
    if bool(request.sig_url) != bool(request.key_env):
        raise SettingError("--gpg-sig-url and --gpg-key-env must both be defined")
    for url in filter(None, (request.url, request.sig_url)):
        _check(url)
    dest = destination(request.dest)
    if request.needs_repack and not dest.name.endswith(".tar.zst"):
        reason = f"{request.original} would have to become {dest.name}, and only .tar.zst archives are made"
        raise UnsupportedArchiveError(archive=request.original, reason=reason, code="WRONG_FORMAT")
    headers = _headers(request.headers)
    digest = _digest(request.sha256)
    with running(environ, dest.parent) as run:
        integrity = _obtained(run, request, headers, digest)
        if request.sig_url:
            _verify(run, request, integrity)
        if request.needs_repack:
            integrity = _repacked(run, request, integrity)
        run.put(integrity, dest)


def _check(url: str) -> None:
    """Return when host and port of a URL can be read; what it holds may be secret, and is not quoted."""
    try:
        origin_of(url)
    except ValueError as error:
        raise SettingError(f"{redacted(url)}: its host or port is none", hint="write https://HOST/PATH") from error


def _headers(texts: tuple[str, ...]) -> dict[str, str]:
    """Return the headers; a value may hold colons."""
    found = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip()):
            raise SettingError(f"--header {text[:80]!r} is no 'Name: value'")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise SettingError(f"--header {name}: a value cannot hold control characters")
        found[name.strip()] = value.strip()
    return found


def _digest(text: str) -> Digest | None:
    if not text:
        log("WARNING: no sha256 is given; whatever the server sends is believed")
        return None
    try:
        return Digest.sha256(text)
    except ValueError as error:
        raise IntegrityError(f"--sha256 {text[:80]!r} is no sha256: nothing can match it") from error


def _obtained(run: Run, request: StaticUrlOptions, headers: Mapping[str, str], digest: Digest | None) -> Integrity:
    begun = time.monotonic()
    integrity = _downloaded(run, request, headers, digest)
    url = redacted(request.url)
    seconds = time.monotonic() - begun
    log(f"{url} resolved to {integrity.size} bytes with sha256 {integrity.digest.hex} in {seconds:.3f}s")
    if request.size > 0:
        log(f"Verified size of {url}")
    if digest is not None:
        log(f"Verified sha256 integrity of {url}")
    return integrity


def _downloaded(run: Run, request: StaticUrlOptions, headers: Mapping[str, str], digest: Digest | None) -> Integrity:
    if digest is not None and request.size > 0:
        integrity = Integrity(size=request.size, digest=digest)
        wanted = Request(name=request.original, integrity=integrity, urls=(request.url,), headers=headers)
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
    return run.unpinned.obtain(asked, run.progress)


def _verify(run: Run, request: StaticUrlOptions, integrity: Integrity) -> None:
    from tasks_lib.signature import MAX_SIGNATURE_BYTES

    keys = run.environ.get(request.key_env)
    if keys is None:
        raise SettingError(f"--gpg-key-env names {request.key_env}, which is not set")
    asked = UnverifiedRequest(
        name=f"the signature of {request.original}", urls=(request.sig_url,), limit=MAX_SIGNATURE_BYTES
    )
    signature = run.unpinned.obtain(asked, run.progress)
    with run.store.open(integrity) as content, run.store.open(signature) as file:
        verdict = run.gpg.verify(content, file.read(), keys=os.fsencode(keys), fingerprint="", progress=run.progress)
    log(f"Verified signature of {redacted(request.url)}: {verdict.key} ({verdict.signed_by})")
    if warning := verdict.warning(time.time()):
        log(f"WARNING: {warning}")


def _repacked(run: Run, request: StaticUrlOptions, integrity: Integrity) -> Integrity:
    from tasks_lib.fetch_content.kinds import kind_of

    log(f"Repacking {request.original} as {request.dest}")
    # what upstream packs is packed: symlinks are written as they are, and nothing is ever written through one
    limits = run.settings.limits._replace(outward_symlinks="keep")
    with run.store.open(integrity) as file, run.store.temporary() as spool, run.store.writer() as writer:
        kind = kind_of(file, request.original, limits)
        if kind is None:
            _wrap(run, file, request, integrity.size, spool, writer, limits)
        elif kind == "zip" or request.strip or request.prefix:
            _reshape(run, file, request, kind, spool, writer, limits)
        else:
            _recompress(file, request, kind, writer, limits, run.progress)
        return writer.commit()


def _reshape(
    run: Run, file: BinaryIO, request: StaticUrlOptions, kind: str, spool: BinaryIO, writer: Writer, limits: Limits
) -> None:
    """Write the normalised archive, as `repack:NAME` does."""
    from tasks_lib.archive import Reshape, repack
    from tasks_lib.formats import mtime_for

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
    """Write the very same tar, once it was read to its end and accepted."""
    from tasks_lib.archive import Reshape, read
    from tasks_lib.archive.writer import recompress

    def look(entry: Entry) -> None:
        for _ in entry.chunks:
            progress.check()

    read(file, name=request.original, format=kind, reshape=Reshape(), limits=limits, sink=look)
    file.seek(0)
    recompress(file, format=kind, limits=limits, write=writer.write, progress=progress)


def _wrap(
    run: Run, file: BinaryIO, request: StaticUrlOptions, size: int, spool: BinaryIO, writer: Writer, limits: Limits
) -> None:
    """Write an archive with the one file in it.

    Raises:
        UnsupportedArchiveError: it was not asked for, or the file would lose its name.
    """
    from tasks_lib.archive import write
    from tasks_lib.formats import mtime_for

    if request.single != "wrap" or request.strip:
        reason = "is one file: nothing can be stripped" if request.single == "wrap" else "is no archive known here"
        raise UnsupportedArchiveError(archive=request.original, reason=reason, code="WRONG_FORMAT")
    entries = _single(file, request, size, limits)
    write(
        entries,
        name=request.original,
        limits=limits,
        mtime=mtime_for(run.settings.source_date_epoch),
        spool=spool,
        write=writer.write,
        progress=run.progress,
    )


def _single(file: BinaryIO, request: StaticUrlOptions, size: int, limits: Limits) -> Iterator[Entry]:
    """Yield the one entry of a file that is wrapped; programs can be executed."""
    from tasks_lib.archive import entry_of

    start = file.read(4)
    file.seek(0)
    name = os.fsencode(request.prefix + request.original)
    chunks = iter(lambda: file.read(_CHUNK), b"")
    yield entry_of(name, "file", limits, size=size, executable=int(start in _PROGRAMS), chunks=chunks)


def report(seconds: float, environ: Mapping[str, str]) -> None:
    """Log how long all artifacts took; in automation also into the file that the environment names.

    Raises:
        OSError: that file cannot be written.
    """
    suite = {"name": "fetch_content", "value": seconds, "lowerIsBetter": True, "shouldAlert": False, "subtests": []}
    text = json.dumps({"framework": {"name": "build_metrics"}, "suites": [suite]})
    log(f"PERFHERDER_DATA: {text}")
    path = environ.get("PERFHERDER_FETCH_CONTENT_JSON_PATH")
    if path and environ.get("MOZ_AUTOMATION") == "1":
        Path(path).write_text(text, "utf-8")
