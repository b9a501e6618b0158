"""A connected socket, plain or TLS, whose waits are all bounded by the deadline of the current attempt.

It has the few socket methods that `http.client` and urllib3 call.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Final

from tasks_lib.errors import TlsError, TransportError, escape_text
from tasks_lib.gil import pass_on, released
from tasks_lib.network import format_trust_hint
from tasks_lib.transport.deadline import CHECK_INTERVAL_S, Deadline

#: Exceptions that mean "try again when the socket is ready".
_NOT_YET: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Bytes of read-ahead for heads and chunk sizes.
_BUFFER: Final = 64 << 10
#: Bytes that may be on their way while a read waits for many. SO_RCVLOWAT makes room for them and limits the window to
#: them; set to the bytes of one wait first, it would limit the window to those, and a distant server to a few megabytes
#: per second. Source: Linux, `tcp_set_rcvlowat`.
_WINDOW: Final = 4 << 20


class DeadlineSocket:
    """A connection that serves one attempt at a time."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        sock.setblocking(False)
        self._sock, self._deadline = sock, deadline
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._event = select.POLLIN
        self._has_asked = False  # the peer has yet to answer: there is nothing to read before a wait
        self._readers = 0
        self._unread = b""
        self._least = 1  # bytes for which a read waits
        self._has_window = False
        self._is_drained = False  # the last read returned fewer
        self._closing = False
        self.is_fresh = True
        self.was_heard = False

    def serve(self, deadline: Deadline) -> None:
        """Switch to the deadline of another attempt."""
        self._deadline = deadline
        self.is_fresh = self.was_heard = False
        self.gather(1)

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS.

        Raises:
            TlsError: the handshake or the verification of the certificate failed.
            StalledError, UnreachableError: the handshake did not finish.
        """
        self._deadline.connecting("performing the TLS handshake")
        try:
            wrapped = context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
            self._sock = wrapped
            while True:
                try:
                    wrapped.do_handshake()
                except _NOT_YET as error:
                    self._wait(error)
                else:
                    return
        except TransportError:
            raise
        except (OSError, ValueError) as error:
            raise handshake_error(error, self._deadline) from error

    # --- methods that http.client and urllib3 call

    def sendall(self, data: bytes, _flags: int = 0) -> None:
        """Send all of `data`.

        Raises:
            StalledError, TransportError: a deadline passed, or the connection broke.
        """
        view = memoryview(data)
        self._has_asked = not isinstance(self._sock, ssl.SSLSocket)  # TLS may hold data that was received
        while view:
            try:
                view = view[self._sock.send(view) :]
            except _NOT_YET as error:
                self._wait(error, select.POLLOUT)
            except OSError as error:
                raise self._deadline.broken(_describe_error(error)) from error

    def receive(self, view: memoryview) -> int:
        """Read the available bytes into `view`, at least one, and return their number; 0 at the end of a body.

        Raises:
            StalledError, TransportError: a deadline passed, or the connection broke.
        """
        if self._unread:
            count = min(len(view), len(self._unread))
            view[:count], self._unread = self._unread[:count], self._unread[count:]
            return count
        if self._has_asked or self._is_drained:
            self._has_asked = False
            self._wait(None)
        while True:
            try:
                got = self._sock.recv_into(view)
            except _NOT_YET as error:
                self._wait(error)
            except OSError as error:
                raise self._deadline.broken(_describe_error(error)) from error
            else:
                if not got and not self._deadline.is_in_body:
                    raise self._deadline.broken("the server closed the connection")
                self.was_heard = True
                self._is_drained = got < self._least
                self._deadline.moved(got)
                return got

    def gather(self, size: int) -> None:
        """Wait for `size` bytes, or a moment, at each read from now on; for a plain connection only.

        Each wake-up costs as much as hashing 100 KiB. `size` must not exceed the bytes that are still to come. The
        system ends the wait when its buffer is full. Source: Linux, socket(7), SO_RCVLOWAT, and `tcp_poll`.
        """
        if size != self._least and not isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                if size > 1 and not self._has_window:
                    self._has_window = True
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _WINDOW)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._least, self._is_drained = size, size > 1

    def give_back(self, data: bytes) -> None:
        """Return bytes to the stream; the next `receive` returns them."""
        self._unread = data

    def makefile(self, *_arguments: Any, **_options: Any) -> io.BufferedReader:
        """Return a file that reads from the socket; the socket stays open until the file is closed."""
        self._readers += 1
        return io.BufferedReader(_SocketReader(self), _BUFFER)

    def settimeout(self, _seconds: float | None) -> None:
        """Do nothing: the deadline applies."""

    def fileno(self) -> int:
        """Return the descriptor, to check whether an idle connection was closed or sent unexpected data."""
        return self._sock.fileno()

    def shutdown(self, how: int) -> None:
        """Shut down one or both directions."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(how)

    def close(self) -> None:
        """Close the socket when no file of `makefile` is open any more."""
        self._closing = True
        if not self._readers:
            self._sock.close()

    def abandon(self) -> None:
        """Close the socket at once, even if files of `makefile` are open."""
        self._closing = True
        self._sock.close()

    def reader_closed(self) -> None:
        """Count a closed file of `makefile`; close the socket after the last one if `close` was called."""
        self._readers -= 1
        if self._closing and not self._readers:
            self._sock.close()

    def is_readable(self) -> bool:
        """Whether data has arrived, also data that TLS holds decrypted, or the peer has closed the connection."""
        self.gather(1)
        self._expect(select.POLLIN)
        has_decrypted = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0
        return has_decrypted or bool(self._poll.poll(0))

    def _expect(self, event: int) -> None:
        if event != self._event:
            self._event = event
            self._poll.modify(self._sock, event)

    def _wait(self, why: Exception | None, event: int = select.POLLIN) -> None:
        """Wait until the socket is ready, in short intervals so that cancellation takes effect soon."""
        if isinstance(why, ssl.SSLWantWriteError | ssl.SSLWantReadError):
            event = select.POLLOUT if isinstance(why, ssl.SSLWantWriteError) else select.POLLIN
        self._expect(event)
        while True:
            left_s = min(CHECK_INTERVAL_S, self._deadline.left_s())
            begun = time.monotonic()
            ready = self._poll.poll(0) if pass_on() else []
            if not ready:
                with released:
                    ready = self._poll.poll(left_s * 1000)
            self._deadline.waited(time.monotonic() - begun)
            if ready or self._least > 1:  # after a moment, take what there is
                return


class _SocketReader(io.RawIOBase):
    """A raw file that reads from a `DeadlineSocket`."""

    def __init__(self, sock: DeadlineSocket) -> None:
        self._socket = sock

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, view: Any) -> int:
        """Read at least one byte and return the number of bytes; 0 at the end."""
        return self._socket.receive(view)

    def close(self) -> None:
        """Release the socket."""
        if not self.closed:
            super().close()
            self._socket.reader_closed()


def _describe_error(error: OSError) -> str:
    """Return a description of `error` without names of Python classes."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "the server reset the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'unknown reason'})"
    return (error.strerror or type(error).__name__).lower()


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
#: Reasons that OpenSSL reports for data that is not a TLS record.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
_BROKEN: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)


def create_context(ca_bundle: str) -> ssl.SSLContext:
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
        hint = "correct SSL_CERT_FILE, SSL_CERT_DIR or REQUESTS_CA_BUNDLE; certificates are always verified"
        raise TlsError(f"cannot read the certificates of {escape_text(ca_bundle)}: {reason}", hint=hint) from error


def _system_authorities() -> str:
    paths = ssl.get_default_verify_paths()
    return f"those of the system ({paths.cafile or paths.capath or f'none: {paths.openssl_cafile} does not exist'})"


def handshake_error(error: Exception, deadline: Deadline) -> TransportError:
    """Return the error for a failed handshake: permanent, except for a broken connection."""
    if isinstance(error, _BROKEN):
        return deadline.broken("the server closed the connection")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = (
            _CERTIFICATE.get(error.verify_code) or f"its certificate is rejected: {escape_text(error.verify_message)}"
        )
        return TlsError(
            f"{deadline.host}: TLS: {reason}", hint=format_trust_hint(deadline.ca_bundle or _system_authorities())
        )
    if isinstance(error, ssl.SSLError):
        said = error.reason or "unknown reason"
        reason = "the server does not speak TLS" if said in _NO_TLS else f"the handshake failed ({escape_text(said)})"
        return TlsError(f"{deadline.host}: TLS: {reason}", hint="check the scheme and the port of the URL")
    return deadline.broken(str(error) or type(error).__name__)
