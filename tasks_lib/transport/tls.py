"""TLS: trusted authorities and error messages. Certificates are always verified, even if a digest is pinned.

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
    19: "its certificate is signed by an untrusted authority (self-signed root)",
    20: "its certificate is signed by an untrusted authority",
    21: "its certificate is signed by an untrusted authority",
    23: "its certificate was revoked",
    62: "its certificate is for another host",
    64: "its certificate is for another address",
}
_HINT: Final = "certificates are always verified; set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to trust another authority"
#: Reasons that OpenSSL reports for data that is not a TLS record.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
_BROKEN: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)


def context_for(ca_bundle: str) -> ssl.SSLContext:
    """Return a verifying context that trusts `ca_bundle`, "" for the authorities of the system.

    `ca_bundle` is a file, a directory, or several directories separated by colons.
    Source: OpenSSL, X509_LOOKUP_hash_dir(3).

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
        raise TlsError(f"cannot read the certificates of {escaped(ca_bundle)}: {reason}", hint=_HINT) from error


def refused(error: Exception, deadline: Deadline) -> TransportError:
    """Return the error for a failed handshake: permanent, except for a broken connection."""
    if isinstance(error, _BROKEN):
        return deadline.broken("the server closed the connection")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _CERTIFICATE.get(error.verify_code) or f"its certificate is rejected: {escaped(error.verify_message)}"
        return TlsError(f"{deadline.host}: TLS: {reason}", hint=_HINT)
    if isinstance(error, ssl.SSLError):
        said = error.reason or "unknown reason"
        reason = "the server does not speak TLS" if said in _NO_TLS else f"the handshake failed ({escaped(said)})"
        return TlsError(f"{deadline.host}: TLS: {reason}", hint="check the scheme and the port of the URL")
    return deadline.broken(str(error) or type(error).__name__)
