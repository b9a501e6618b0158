"""Signatures of downloads: detached signatures and signed checksum lists, verified in addition to the digest.

They are stored as blobs, so that they can be verified again without a network. The result of a verification has a key
that includes the policy (keys, fingerprint), so that a changed policy requires a new verification. An invalid signature
is never stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final
from urllib.parse import unquote

from tasks_lib import recipe
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.definitions import Checksums, DebianSource, GpgSignature, Minisign, StaticUrl
from tasks_lib.digest import Digest, Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, CacheError, OfflineError, SignatureError, escape_text
from tasks_lib.progress import FailedSource, Progress
from tasks_lib.signature import MAX_SIGNATURE_BYTES, ValidSignature, find_listed_digest, verify_minisign
from tasks_lib.signature.gpg import read_key_file
from tasks_lib.steps.definition_types import list_read_files
from tasks_lib.steps.static_url import request_headers
from tasks_lib.transport import redacted

#: Maximum size of a checksum list in bytes: 100,000 lines.
MAX_LIST_BYTES: Final = 16 << 20

Verifier = Callable[[BinaryIO], ValidSignature]


def verify_signatures(context: Context, name: str, source: StaticUrl, verdict: str, progress: Progress) -> None:
    """Verify every signature of a download in the cache; record who signed it under the key of the policy.

    Raises:
        SignatureError: the bytes are not signed as required, or a key file is not the one that `verdict` covers.
        ToolError: gpg (or `cryptography`) is missing or hangs.
        AllSourcesFailedError, OfflineError: a signature cannot be downloaded.
        BlobMissingError, BlobCorruptError: the download disappeared or changed in the cache.
        CacheUnavailableError, CancelledError: as in every step.
    """
    progress.phase("verify")
    check = _SignatureCheck(context, name, source, read_measured_keys(source, verdict), progress)
    facts: dict[str, str | int | float] = {}
    with context.cache.open(source.integrity) as content:
        for one in source.vouchers:
            valid = check.verdict(one, content)
            facts |= {**valid.facts(), **({"signature": f"{facts['signature']}, {valid.kind}"} if facts else {})}
            if warning := valid.warning(time.time()):
                progress.warn(f"{name}: {warning}")
    context.cache.record(Result(key=verdict, integrity=source.integrity, provenance=facts))


def read_measured_keys(source: StaticUrl | DebianSource, verdict: str) -> Mapping[str, bytes]:
    """Return the content of each key file, by path.

    The key of the verdict was computed from the files as they were when the definitions were loaded. A verdict on other
    keys must not be recorded under it.

    Raises:
        SignatureError: a file cannot be read, is too large, or has changed since.
    """
    field = "key-files" if isinstance(source, DebianSource) else "key-path"
    keys = {path: read_key_file(path, field) for path in list_read_files(source)}
    digests = {path: Digest.sha256(hashlib.sha256(content).hexdigest()) for path, content in keys.items()}
    if recipe.verdict_key(source, digests) != verdict:
        paths = ", ".join(escape_text(path) for path in keys)
        raise SignatureError(f"key file {paths} changed while doit ran", hint="review the file and run doit again")
    return keys


def record_evidence(context: Context, content: Integrity, url: str, evidence: Integrity) -> None:
    """Record that a signature or list from `url` verified `content`, so that it is not downloaded again."""
    key = recipe.evidence_key(content, url)
    context.cache.record(Result(key=key, integrity=evidence, provenance={"url": redacted(url)}))


class _SignatureCheck:
    """The verification of the signatures of one download."""

    def __init__(
        self, context: Context, name: str, source: StaticUrl, keys: Mapping[str, bytes], progress: Progress
    ) -> None:
        self._context, self._name, self._source, self._keys, self._progress = context, name, source, keys, progress

    def verdict(self, voucher: GpgSignature | Minisign | Checksums, content: BinaryIO) -> ValidSignature:
        if isinstance(voucher, Checksums):
            return self._listed(voucher)
        return self._signed(voucher, content, self._places(voucher.sig_url, self._source.locations))

    def _signed(self, voucher: GpgSignature | Minisign, content: BinaryIO, urls: tuple[str, ...]) -> ValidSignature:
        def check(file: BinaryIO) -> ValidSignature:
            signature = file.read(MAX_SIGNATURE_BYTES + 1)
            if isinstance(voucher, Minisign):
                return verify_minisign(content, signature, public_key=voucher.public_key, progress=self._progress)
            return self._context.gpg.verify(
                content,
                signature,
                keys=self._keys[voucher.key_file],
                fingerprint=voucher.fingerprint,
                progress=self._progress,
            )

        return self._judged("signature", urls, MAX_SIGNATURE_BYTES, check)

    def _listed(self, voucher: Checksums) -> ValidSignature:
        urls = self._places(voucher.url, self._source.locations)

        def check(file: BinaryIO) -> ValidSignature:
            signer = voucher.signed_by
            if signer.sig_url:
                verdict = self._signed(signer, file, self._places(signer.sig_url, urls))
                file.seek(0)
                text = file.read()
            elif isinstance(signer, GpgSignature):
                verdict, text = self._context.gpg.verify_clearsigned(
                    file.read(),
                    keys=self._keys[signer.key_file],
                    fingerprint=signer.fingerprint,
                    progress=self._progress,
                )
            else:
                raise AssertionError("a minisign signature is detached: `definitions` requires a URL")
            self._compare(text)
            return verdict

        return self._judged("checksum list", urls, MAX_LIST_BYTES, check)

    def _compare(self, text: bytes) -> None:
        listed = find_listed_digest(text, unquote(self._source.file_name))
        if listed != self._source.integrity.digest:
            raise SignatureError(
                f"the signed checksum list has {listed}, the definition has {self._source.integrity.digest}",
                hint="review the content again before you change the definition",
            )

    def _places(self, template: str, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Return the possible URLs of a signature: next to the origin, then next to each mirror."""
        return tuple(dict.fromkeys(template.replace("{url}", url) for url in urls))

    def _judged(self, what: str, urls: tuple[str, ...], limit: int, check: Verifier) -> ValidSignature:
        """Check the cached evidence; if there is none or it is invalid, download the evidence and check it."""
        cache = self._context.cache
        key = recipe.evidence_key(self._source.integrity, urls[0])
        cached = cache.result(key)
        refusal: SignatureError | None = None
        if cached is not None:
            try:
                with contextlib.suppress(CacheError), cache.open(cached.integrity) as file:
                    return check(file)
            except SignatureError as error:
                refusal = error
        integrity = self._obtained(what, urls, limit, refusal)
        with cache.open(integrity) as file:
            verdict = check(file)
        record_evidence(self._context, self._source.integrity, urls[0], integrity)
        return verdict

    def _obtained(self, what: str, urls: tuple[str, ...], limit: int, refusal: SignatureError | None) -> Integrity:
        try:
            request = UnverifiedRequest(
                name=f"{self._name}: its {what}",
                urls=urls,
                limit=limit,
                headers=self._headers(urls[0]),
                on_secret="refuse",
            )
            return self._context.unverified.obtain(request, _SignatureProgress(self._progress))
        except (AllSourcesFailedError, OfflineError):
            if refusal is not None:
                raise refusal from None
            raise

    def _headers(self, url: str) -> Mapping[str, str]:
        """Return the headers of the definition if the signature has the same origin as the download, else {}."""
        same = _origin(url) == _origin(self._source.url)
        return request_headers(self._context, self._name, self._source) if same else {}


class _SignatureProgress:
    """Progress of downloading a signature: hides events that look like those of the artifact itself."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Report only the phase `wait`."""
        if name == "wait":
            self._progress.phase(name, **facts)

    def advance(self, size: int) -> None:
        """Ignore the size: a signature is small."""

    def warn(self, message: str) -> None:
        """Report a warning."""
        self._progress.warn(message)

    def failed_source(self, source: FailedSource) -> None:
        """Report a failed source."""
        self._progress.failed_source(source)

    def check(self) -> None:
        """Stop if the run is cancelled.

        Raises:
            CancelledError: the run is cancelled.
        """
        self._progress.check()


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3]).lower()
