"""TLS: whom to trust, and what a refusal means. Verification is never switched off, pinned digest or not.

Source for "never": CVE-2024-47174 (Nix: "the hash is checked, so TLS is unnecessary" leaked credentials).
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from tasks_lib.errors import TlsError, TransportError, escaped
from tasks_lib.transport.deadline import Deadline

#: Source: OpenSSL, x509_vfy.h.
_CERTIFICATE: Final = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate comes from an authority that is not trusted (self-signed root)",
    20: "its certificate comes from an authority that is not trusted",
    21: "its certificate comes from an authority that is not trusted",
    23: "its certificate was revoked",
    62: "its certificate is for another host",
    64: "its certificate is for another address",
}
_HINT: Final = "certificates are always verified; SSL_CERT_FILE or REQUESTS_CA_BUNDLE names another authority"
#: What OpenSSL says of an answer that is no TLS record.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
_BROKEN: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)


def context_for(ca_bundle: str) -> ssl.SSLContext:
    """Return a verifying context that trusts `ca_bundle`, "" for the system's authorities.

    It is a file, a directory or several, with colons between them. Source: OpenSSL, X509_LOOKUP_hash_dir(3).

    Raises:
        TlsError: the bundle cannot be read.
    """
    if not ca_bundle:
        return ssl.create_default_context()
    try:
        if any(Path(one).is_dir() for one in ca_bundle.split(os.pathsep)):
            return ssl.create_default_context(capath=ca_bundle)
        return ssl.create_default_context(cafile=ca_bundle)
    except OSError as error:
        reason = error.strerror or "no certificates"
        raise TlsError(f"the certificates of {escaped(ca_bundle)} cannot be read: {reason}", hint=_HINT) from error


def refused(error: Exception, deadline: Deadline) -> TransportError:
    """Return what a failed handshake means: final, but for a connection that broke."""
    if isinstance(error, _BROKEN):
        return deadline.broken("the server closed the connection")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _CERTIFICATE.get(error.verify_code) or f"its certificate is refused: {escaped(error.verify_message)}"
        return TlsError(f"{deadline.host}: TLS: {reason}", hint=_HINT)
    if isinstance(error, ssl.SSLError):
        said = error.reason or "unknown reason"
        reason = "the server does not speak TLS" if said in _NO_TLS else f"the handshake failed ({escaped(said)})"
        return TlsError(f"{deadline.host}: TLS: {reason}", hint="is it https, and is that the port?")
    return deadline.broken(str(error) or type(error).__name__)
