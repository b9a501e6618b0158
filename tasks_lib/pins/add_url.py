"""The URL that `add` is given: what it may contain, and what its fragment promises. Pure: no I/O."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tasks_lib.definitions.fields import check_download_url
from tasks_lib.definitions.schema import FieldError
from tasks_lib.definitions.source_fields import REPOSITORY_SCHEMES
from tasks_lib.digest import Digest
from tasks_lib.errors import EditError
from tasks_lib.network import redacted
from tasks_lib.pins.measure import Expected
from tasks_lib.vcs.urls import check_url, scheme_of

#: Names in a query that carry a credential, as they are or after a prefix such as `X-Amz-`.
#: Source: AWS Signature Version 4 (query), Google V4 signing, Azure shared access signatures, CloudFront signed URLs,
#: GitLab `private_token`, RFC 6750 section 2.3.
_SECRET_NAMES: Final = re.compile(
    r"sign|x-(?:amz|goog|oss|cos|ms)-(?:signature|credential|security-token)|signature|sig|hmac|key-pair-id|awsaccesskeyid"
    r"|googleaccessid|ossaccesskeyid|(?:[a-z]{1,20}[_-]?){0,3}(?:token|secret|password|passwd|apikey)|api[_-]?key|auth"
    r"|authorization|jwt|hdnts|hdnea|__gda__",
    re.IGNORECASE,
)
_SHA256: Final = re.compile(r"(?:^|&)sha256[=:-]([^&]*)")


class GivenUrl(NamedTuple):
    """A URL without its fragment: "file" or "git", and what the fragment says: a digest of the file, or a tag."""

    url: str
    kind: str
    expected: tuple[Expected, ...] = ()
    tag: str = ""


def parse_url(text: str) -> GivenUrl:
    """Return a URL that a definition may have.

    Raises:
        EditError: it cannot be requested, or has a credential that must not be in a file.
    """
    url, _, fragment = text.partition("#")
    repository = url.removeprefix("git+")
    try:
        parts = urlsplit(repository)
        _refuse_credentials(url, parts.query, parts.hostname or "")
        if scheme_of(repository) in ("git", "ssh") or repository != url or parts.path.rstrip("/").endswith(".git"):
            return GivenUrl(check_url(repository, REPOSITORY_SCHEMES), "git", tag=fragment)
        check_download_url(url, ("https", "http", "file"))
    except FieldError as error:
        raise EditError(f"{redacted(url)}: {error.reason}", hint=error.hint) from error
    except ValueError as error:
        raise EditError(f"{redacted(url)}: {error}", hint="write https://host/path") from error
    if is_relative(url):
        raise EditError(f"{redacted(url)} is relative", hint="use file:// and an absolute path")
    return GivenUrl(url, "file", _promised(fragment))


def is_relative(url: str) -> bool:
    """Return whether a URL is a file relative to the YAML file that has it."""
    return url.lower().startswith("file:") and not url[5:].startswith("/")


def _refuse_credentials(url: str, query: str, host: str) -> None:
    """Check that the query of a URL has no token and no signature.

    Raises:
        EditError: it has one.
    """
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if _SECRET_NAMES.fullmatch(name):
            raise EditError(
                f"the query of {redacted(url)} carries a credential ({name}), which a definition must not contain",
                hint="use the URL without it, and send the credential with `headers:` or "
                f'[tool.doit-fetch.auth."{host}"] (docs/how-to/private-artifacts.md)',
            )


def _promised(fragment: str) -> tuple[Expected, ...]:
    """Return the digest in a fragment such as `sha256=HEX`.

    Raises:
        EditError: it is not a digest.
    """
    found = _SHA256.search(fragment)
    if found is None:
        return ()
    try:
        return (Expected(Digest.sha256(found[1].lower()), "the fragment of the URL"),)
    except ValueError as error:
        raise EditError(
            "the fragment of the URL has an invalid sha256", hint="write #sha256= and 64 hex digits"
        ) from error
