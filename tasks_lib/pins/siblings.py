"""Siblings of a URL: signatures and lists of digests beside a file, and what they prove.

Source: issue 23: HEAD requests, at most 12, to the host of the URL only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from tasks_lib.context import Context
from tasks_lib.definitions.values import file_name_of
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import (
    AllSourcesFailedError,
    IntegrityError,
    OfflineError,
    SignatureError,
    TransportError,
    UnknownSignerError,
    escape_text,
)
from tasks_lib.network import redacted
from tasks_lib.pins.evidence import LISTED, SIGNED, UNVERIFIED, Evidence, PublicKey, for_minisign, for_openpgp
from tasks_lib.pins.pages import describe_failure
from tasks_lib.pins.yaml_text import Value
from tasks_lib.progress import Progress
from tasks_lib.signature import MAX_SIGNATURE_BYTES, ValidSignature, find_listed_digest, verify_minisign
from tasks_lib.signature.packets import signature_packets
from tasks_lib.steps.signatures import MAX_LIST_BYTES, record_evidence

#: Most requests that look for siblings.
MAX_REQUESTS: Final = 12
_SIGNATURES: Final = (".asc", ".sig", ".sign", ".minisig")
_LISTS: Final = (".sha256", ".sha256sum")
#: A list of all files of a directory, and its signature.
_DIRECTORY_LIST: Final = "SHA256SUMS"
_LIST_SIGNATURE: Final = ".asc"
#: Statuses of servers that do not answer HEAD. Source: RFC 9110 sections 15.5.6 and 15.6.2.
_NO_HEAD: Final = (405, 501)
_DIGEST: Final = re.compile(rb"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])")


class _Sibling(NamedTuple):
    """A file beside the download: its URL, and how a definition writes it."""

    url: str
    template: str


def look_for_siblings(context: Context, url: str, headers: Mapping[str, str], progress: Progress) -> Siblings:
    """Ask the host of a URL which siblings exist."""
    found = Siblings(context, url, headers, progress)
    if urlsplit(url).scheme not in ("http", "https"):
        return found
    names = {suffix: _beside(url, suffix) for suffix in (*_SIGNATURES, *_LISTS)}
    names[_DIRECTORY_LIST] = _in_directory(url, _DIRECTORY_LIST)
    if all(found.ask(name, sibling) for name, sibling in names.items()) and _DIRECTORY_LIST in found.existing:
        found.ask(_DIRECTORY_LIST + _LIST_SIGNATURE, _in_directory(url, _DIRECTORY_LIST + _LIST_SIGNATURE))
    return found


class Siblings:
    """The siblings of one URL."""

    def __init__(self, context: Context, url: str, headers: Mapping[str, str], progress: Progress) -> None:
        self._context, self._url, self._headers, self._progress = context, url, headers, progress
        self._requests = 0
        self.existing: dict[str, _Sibling] = {}
        self.failure = ""  # why some are unknown

    def ask(self, name: str, sibling: _Sibling) -> bool:
        """Add a sibling if the server has it; return False if the host does not answer.

        A page in HTML is the answer of a server that does not have it.
        """
        if self._requests >= MAX_REQUESTS or self._context.settings.policy.network == "off":
            return True
        self._requests += 1
        self._progress.check()
        try:
            head = self._context.transport.head(sibling.url, headers=self._headers, check=self._progress.check)
        except TransportError as error:
            self.failure = describe_failure(error)
            self._progress.warn(f"siblings of {redacted(self._url)} are unknown: {self.failure}")
            return False
        if head.status in _NO_HEAD or (head.status == 200 and head.kind not in ("text/html", "application/xhtml+xml")):
            self.existing[name] = sibling
        return True

    def verify(self, integrity: Integrity, keys: list[PublicKey], source: Locations) -> Iterator[Evidence]:
        """Yield what the siblings prove about a download in the cache.

        Raises:
            SignatureError: a signature by a known key is bad.
            IntegrityError: a list has another digest.
            CacheUnavailableError, BlobMissingError, ToolError, CancelledError: as in every step.
        """
        check = _Check(self._context, integrity, keys, source, self._headers, self._progress)
        for suffix in _SIGNATURES:
            if suffix in self.existing:
                yield from check.signature(self.existing[suffix])
        for suffix in _LISTS:
            if suffix in self.existing:
                yield from check.digest_file(self.existing[suffix], unquote(file_name_of(self._url)))
        if _DIRECTORY_LIST in self.existing:
            signature = self.existing.get(_DIRECTORY_LIST + _LIST_SIGNATURE)
            yield from check.directory_list(self.existing[_DIRECTORY_LIST], signature, unquote(file_name_of(self._url)))


class Locations(NamedTuple):
    """The URL of a definition, and the first URL that a run asks for it: another one if mirrors.yml rewrites it."""

    written: str
    asked: str


class _Check(NamedTuple):
    """The verification of the siblings of one download."""

    context: Context
    integrity: Integrity
    keys: list[PublicKey]
    source: Locations
    headers: Mapping[str, str]
    progress: Progress

    def signature(self, sibling: _Sibling) -> Iterator[Evidence]:
        """Yield what a detached signature proves."""
        text = self._read(sibling, MAX_SIGNATURE_BYTES)
        if text is None:
            return
        blob, signature = text
        with self.context.cache.open(self.integrity) as content:
            judged = self._judge(content, signature, sibling)
        if isinstance(judged, Evidence):
            yield judged
            return
        valid, key = judged
        fields: dict[str, Value]
        if key.minisign:
            short = {"public-key": key.minisign}
            own = {} if sibling.template == "{url}.minisig" else {"sig-url": sibling.template}
            fields = {"minisign": {**short, **own}}
        else:
            fields = {"gpg-signature": {"sig-url": sibling.template, **_openpgp_fields(valid, key)}}
        record_evidence(self.context, self.integrity, sibling.template.replace("{url}", self.source.asked), blob)
        yield Evidence(SIGNED, f"{_name(sibling)}, {_signer(valid)}", fields)

    def digest_file(self, sibling: _Sibling, name: str) -> Iterator[Evidence]:
        """Yield what a file with the digest of the download proves; its only digest counts under any name."""
        text = self._read(sibling, MAX_LIST_BYTES)
        if text is None:
            return
        found = {one.lower() for one in _DIGEST.findall(text[1])}
        digest = Digest.sha256(found.pop().decode()) if len(found) == 1 else _find_digest(text[1], name)
        if digest is not None:
            self._compare(sibling, digest)
            yield Evidence(LISTED, _name(sibling))

    def directory_list(self, sibling: _Sibling, signature: _Sibling | None, name: str) -> Iterator[Evidence]:
        """Yield what a list of the directory proves, with its signature if there is one."""
        text = self._read(sibling, MAX_LIST_BYTES)
        digest = _find_digest(text[1], name) if text is not None else None
        if text is None or digest is None:
            return
        self._compare(sibling, digest)
        signed = self._read(signature, MAX_SIGNATURE_BYTES) if signature is not None else None
        if signed is not None and signature is not None:
            with self.context.cache.open(text[0]) as content:
                judged = self._judge(content, signed[1], signature)
            if not isinstance(judged, Evidence):
                valid, key = judged
                by = {"sig-url": f"{{url}}{_LIST_SIGNATURE}", **_openpgp_fields(valid, key)}
                record_evidence(self.context, self.integrity, sibling.url, text[0])
                record_evidence(self.context, self.integrity, signature.url, signed[0])
                detail = f"{_name(sibling)}, {_signer(valid)}"
                yield Evidence(SIGNED, detail, {"checksums": {"url": sibling.url, "signed-by": by}})
                return
            yield judged
        yield Evidence(LISTED, _name(sibling))

    def _read(self, sibling: _Sibling, limit: int) -> tuple[Integrity, bytes] | None:
        """Return a sibling, None if the server does not have it: an HTML page is neither a signature nor a list."""
        request = UnverifiedRequest(
            name=_name(sibling), urls=(sibling.url,), limit=limit, headers=self.headers, on_secret="refuse"
        )
        try:
            blob = self.context.unverified.obtain(request, self.progress)
        except (AllSourcesFailedError, OfflineError):
            return None
        with self.context.cache.open(blob) as file:
            text = file.read(limit)
        return None if text.lstrip()[:1] in (b"<", b"") else (blob, text)

    def _compare(self, sibling: _Sibling, listed: Digest) -> None:
        if listed != self.integrity.digest:
            raise IntegrityError(
                f"{redacted(sibling.url)} lists {listed}, the download has {self.integrity.digest}",
                hint="nothing was written: find out which of them is wrong",
            )

    def _judge(
        self, content: BinaryIO, signature: bytes, sibling: _Sibling
    ) -> tuple[ValidSignature, PublicKey] | Evidence:
        """Verify a signature with each key; return it with its key, or why it proves nothing.

        Raises:
            SignatureError: it is a bad signature by a known key.
        """
        is_minisign = signature.startswith(b"untrusted comment:")
        if not is_minisign and not _is_openpgp(signature):
            return Evidence(UNVERIFIED, f"{_name(sibling)} is neither an OpenPGP nor a minisign signature")
        reason = f"{'a minisign' if is_minisign else 'an OpenPGP'} signature, but the project has no such key"
        for key in for_minisign(self.keys) if is_minisign else for_openpgp(self.keys):
            try:
                return self._verify(content, signature, key), key
            except UnknownSignerError as error:
                reason = error.message.removeprefix("signature refused: ")
            except SignatureError as error:
                error.message = f"{redacted(sibling.url)}: {error.message} (key file {escape_text(key.key_path)})"
                raise
        return Evidence(UNVERIFIED, f"{_name(sibling)}: {reason}")

    def _verify(self, content: BinaryIO, signature: bytes, key: PublicKey) -> ValidSignature:
        if key.minisign:
            return verify_minisign(content, signature, public_key=key.minisign, progress=self.progress)
        return self.context.gpg.verify(content, signature, keys=key.content, fingerprint="", progress=self.progress)


def _is_openpgp(signature: bytes) -> bool:
    """Return whether bytes are an OpenPGP signature; a damaged one in armor counts as one."""
    if signature.lstrip().startswith(b"-----BEGIN PGP SIGNATURE"):
        return True
    try:
        return bool(signature_packets(signature))
    except SignatureError:
        return False


def _openpgp_fields(valid: ValidSignature, key: PublicKey) -> dict[str, Value]:
    if key.minisign:
        return {"public-key": key.minisign}
    return {"key-path": key.key_path, "fingerprint": valid.key}


def _signer(valid: ValidSignature) -> str:
    by = f" ({valid.signed_by})" if valid.signed_by and valid.kind == "OpenPGP" else ""
    return f"{valid.kind} key {valid.key}{by}"


def _name(sibling: _Sibling) -> str:
    return file_name_of(redacted(sibling.url))


def _find_digest(text: bytes, name: str) -> Digest | None:
    """Return the digest that a list has for a name, None if it has none.

    Raises:
        SignatureError: it has two.
    """
    try:
        return find_listed_digest(text, name)
    except SignatureError as error:
        if "two digests" in error.message:
            raise
        return None


def _beside(url: str, suffix: str) -> _Sibling:
    parts = urlsplit(url)
    if not parts.query:
        return _Sibling(url + suffix, "{url}" + suffix)
    beside = urlunsplit(parts._replace(path=parts.path + suffix))
    return _Sibling(beside, beside)


def _in_directory(url: str, name: str) -> _Sibling:
    parts = urlsplit(url)
    place = urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + name, query=""))
    return _Sibling(place, place)
