"""Who vouches for a download beside its digest: signatures and signed lists.

They are kept as blobs, so that they can be verified again without a network. What was verified is recorded under a key
that holds the policy (which keys, which fingerprint): a changed policy has no verdict yet. A signature that is refused
is never kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote

from tasks_lib import recipe
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.definitions import Checksums, GpgSignature, Minisign, StaticUrl
from tasks_lib.digest import Integrity
from tasks_lib.download.unverified import UnverifiedRequest
from tasks_lib.errors import AllSourcesFailedError, CacheError, OfflineError, SignatureError
from tasks_lib.progress import Progress
from tasks_lib.signature import MAX_KEYS_BYTES, MAX_SIGNATURE_BYTES, ValidSignature, listed_digest, verify_minisign

#: Largest list of digests in bytes: 100,000 lines.
MAX_LIST_BYTES: Final = 16 << 20

Verifier = Callable[[BinaryIO], ValidSignature]


def verify_signatures(
    world: Context, name: str, source: StaticUrl, verdict: str, progress: Progress
) -> Mapping[str, str | int | float]:
    """Verify every signature of a download that the store holds; return what a result should tell of it.

    Raises:
        SignatureError: the bytes are not signed as promised.
        ToolError: gpg (or `cryptography`) is missing or hangs.
        AllSourcesFailedError, OfflineError: the signature cannot be obtained.
        BlobMissingError, BlobCorruptError: the download vanished meanwhile.
        StoreUnavailableError, CancelledError: as every step.
    """
    progress.phase("verify")
    voucher = _SignatureCheck(world, name, source, progress)
    facts: dict[str, str | int | float] = {}
    with world.store.open(source.integrity) as content:
        for one in source.vouchers:
            found = voucher.verdict(one, content)
            facts |= {**found.facts(), **({"signature": f"{facts['signature']}, {found.kind}"} if facts else {})}
            if warning := found.warning(time.time()):
                progress.warn(f"{name}: {warning}")
    world.store.record(Result(key=verdict, integrity=source.integrity, provenance=facts))
    return facts


def keys_of(path: str) -> bytes:
    """Return the content of a key file.

    Raises:
        SignatureError: it cannot be read, or is too large.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_KEYS_BYTES + 1)
    except OSError as error:
        raise SignatureError(
            f"the key file {path} cannot be read: {error.strerror or error}",
            hint="`key-path:` counts from the root of the repository",
        ) from error


class _SignatureCheck:
    """One download on its way to be verified."""

    def __init__(self, world: Context, name: str, source: StaticUrl, progress: Progress) -> None:
        self._world, self._name, self._source, self._progress = world, name, source, progress

    def verdict(self, voucher: GpgSignature | Minisign | Checksums, content: BinaryIO) -> ValidSignature:
        if isinstance(voucher, Checksums):
            return self._listed(voucher)
        return self._signed(voucher, content, self._places(voucher.sig_url, self._source.locations))

    def _signed(self, voucher: GpgSignature | Minisign, content: BinaryIO, urls: tuple[str, ...]) -> ValidSignature:
        def check(file: BinaryIO) -> ValidSignature:
            signature = file.read(MAX_SIGNATURE_BYTES + 1)
            if isinstance(voucher, Minisign):
                return verify_minisign(content, signature, public_key=voucher.public_key, progress=self._progress)
            return self._world.gpg.verify(
                content,
                signature,
                keys=keys_of(voucher.key_file),
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
                verdict, text = self._world.gpg.clearsigned(
                    file.read(), keys=keys_of(signer.key_file), fingerprint=signer.fingerprint, progress=self._progress
                )
            else:
                raise AssertionError("a minisign signature is detached: `definitions` gives it a URL")
            self._compare(text)
            return verdict

        return self._judged("list of digests", urls, MAX_LIST_BYTES, check)

    def _compare(self, text: bytes) -> None:
        listed = listed_digest(text, unquote(self._source.file_name))
        if listed != self._source.integrity.digest:
            raise SignatureError(
                f"the signed list of digests says {listed}, the definition {self._source.integrity.digest}",
                hint="review the content again before you change the definition",
            )

    def _places(self, template: str, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Return where a signature may lie: beside the origin, else beside a mirror."""
        return tuple(dict.fromkeys(template.replace("{url}", url) for url in urls))

    def _judged(self, what: str, urls: tuple[str, ...], limit: int, check: Verifier) -> ValidSignature:
        """Judge the evidence that is kept, else (or when it is refused) what the network gives now."""
        store = self._world.store
        key = recipe.evidence_key(self._source.integrity, urls[0])
        kept = store.result(key)
        refusal: SignatureError | None = None
        if kept is not None:
            try:
                with contextlib.suppress(CacheError), store.open(kept.integrity) as file:
                    return check(file)
            except SignatureError as error:
                refusal = error
        integrity = self._obtained(what, urls, limit, refusal)
        with store.open(integrity) as file:
            verdict = check(file)
        store.record(Result(key=key, integrity=integrity, provenance={"url": urls[0]}))
        return verdict

    def _obtained(self, what: str, urls: tuple[str, ...], limit: int, refusal: SignatureError | None) -> Integrity:
        try:
            asked = UnverifiedRequest(
                name=f"{self._name}: its {what}", urls=urls, limit=limit, headers=self._headers(urls[0])
            )
            return self._world.unpinned.obtain(asked, _Aside(self._progress))
        except (AllSourcesFailedError, OfflineError):
            if refusal is not None:
                raise refusal from None
            raise

    def _headers(self, url: str) -> Mapping[str, str]:
        """Return the definition's headers when the signature lies at the origin that they are for."""
        return dict(self._source.headers) if _origin(url) == _origin(self._source.url) else {}


class _Aside:
    """What is told of a signature on its way: nothing that would pass for the download itself."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def phase(self, name: str, **facts: str | int | float) -> None:
        """Say only what is waited for."""
        if name == "wait":
            self._progress.phase(name, **facts)

    def advance(self, size: int) -> None:
        """Nothing: a signature is small."""

    def warn(self, message: str) -> None:
        """Pass it on."""
        self._progress.warn(message)

    def check(self) -> None:
        """Stop the work when the run was asked to.

        Raises:
            CancelledError: it was.
        """
        self._progress.check()


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3]).lower()
