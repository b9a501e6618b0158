"""Downloads: the content of a definition of one file, from the cache or its sources."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from tasks_lib import recipe
from tasks_lib.context import Context
from tasks_lib.definitions import Checksums, StaticUrl
from tasks_lib.digest import Digest
from tasks_lib.download import Request
from tasks_lib.errors import SettingError
from tasks_lib.fs.local_urls import is_local_file
from tasks_lib.gil import serialized
from tasks_lib.network import has_reference, resolve_headers
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import publish, publish_from_cache
from tasks_lib.steps.builds import Artifact
from tasks_lib.steps.definition_types import DefinitionSteps
from tasks_lib.transport import proxy, urls

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Size in bytes up to which bookkeeping dominates a download, so that one at a time is fastest. Larger downloads are
#: hashed and written concurrently.
SMALL: Final = 1 << 20


class _StaticUrlSteps(DefinitionSteps[StaticUrl]):
    """The steps of one download."""

    def is_short(self) -> bool:
        """Return whether it is small, and waits for no program such as gpg."""
        return self.source.integrity.size <= SMALL and not self.source.vouchers

    def fetch(self, artifact: Artifact, progress: Progress) -> None:
        """Fetch the file, verify its signatures, and publish it.

        Raises:
            FetchError: as `fetch` of `definition_types`.
        """
        if self.source.vouchers:
            self._obtain(artifact, progress)  # waits for programs such as gpg: no need to serialize
            return
        cache = self.context.cache
        with serialized(self.source.integrity.size, SMALL):
            if not cache.has(self.source.integrity) or self._is_due() or not publish_from_cache(self.context, artifact):
                self._obtain(artifact, progress)

    def _is_due(self) -> bool:
        """Return whether the URL of the definition is to be asked whether it has the cached content."""
        result = self.context.cache.result(recipe.fetch_key(self.source.integrity))
        return result is not None and result.is_due(self.source.url, time.time())

    def _obtain(self, artifact: Artifact, progress: Progress) -> None:
        context, name, source = self.context, self.definition.name, self.source
        if context.sources.obtain(build_request(context, name, source, artifact), progress):
            context.fetched.add((source.integrity.digest.hex, source.url))
        if source.vouchers:
            from tasks_lib.steps.signatures import verify_signatures  # slow to import, needed only with signatures

            verify_signatures(context, name, source, artifact.verdict, progress)
        publish(context, source.integrity, artifact)

    def needs_network(self, artifact: Artifact) -> bool:
        """Return whether neither a local file nor a local store has the content."""
        if any(is_local_file(place.url) for place in self.source.places):
            return False
        return not self.has_local(artifact.integrity, "")

    def list_downloads(self) -> list[StaticUrl]:
        """Return the download."""
        return [self.source]

    def list_digests(self) -> list[Digest]:
        """Return the pinned digest."""
        return [self.source.integrity.digest]

    def list_kept_keys(self) -> set[str]:
        """Return the keys of the signatures and checksum lists that verify the download."""
        keys = set()
        for voucher in self.source.vouchers:
            places = [voucher.url if isinstance(voucher, Checksums) else voucher.sig_url]
            if isinstance(voucher, Checksums) and voucher.signed_by.sig_url:
                places.append(voucher.signed_by.sig_url)
            url = self.source.url
            for template in places:
                url = template.replace("{url}", url)
                keys.add(recipe.evidence_key(self.source.integrity, url))
        return keys


STEPS: Final = _StaticUrlSteps


def build_request(context: Context, name: str, source: StaticUrl, artifact: Artifact | None = None) -> Request:
    """Return what to download for a source, with the name that messages use, and the artifact that it becomes."""
    places = source.places
    return Request(
        name=name,
        integrity=source.integrity,
        urls=tuple(place.url for place in places),
        headers=partial(request_headers, context, name, source),
        home=source.url,
        strict=frozenset(place.url for place in places if place.go_on == "not-found"),
        refused={place.url: place.refused for place in places if place.refused},
        by_digest=frozenset(place.url for place in places if place.by == "content"),
        artifact=artifact.path if artifact is not None and not source.vouchers else None,
    )


def request_headers(context: Context, name: str, source: StaticUrl) -> Mapping[str, str]:
    """Return the headers to send now to the origin of the definition `name`, with values from the environment.

    Raises:
        SettingError: a variable is not set, its value is not allowed, or a proxy would receive it unencrypted.
        DefinitionError: the file of the definition is not valid any more.
    """
    if not source.headers:
        return {}
    cached = not all(value for _, value in source.headers)
    headers = context.written_headers.get(name, ()) if cached else source.headers
    own = context.settings.transport
    if has_reference(headers) and source.url.lower().startswith("http:"):
        origin = urls.origin_of(source.url)
        if proxy.proxy_for(origin, own.proxies, own.no_proxy) is not None:
            message = f"{name}: the proxy would receive the values of `headers` unencrypted"
            raise SettingError(message, hint=f"add {origin.host} to no_proxy")
    return resolve_headers(headers, context.environ, name)
