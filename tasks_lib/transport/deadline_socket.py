"""A line: one connected socket, plain or TLS, whose every wait is bounded by the deadline of the attempt it serves.

It has the few methods of a socket that `http.client` and urllib3 call, so that they read and write through it.
"""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
import time
from typing import Any, Final

from tasks_lib.errors import TransportError
from tasks_lib.gil import released
from tasks_lib.transport.deadline import LOOK_S, Deadline
from tasks_lib.transport.tls import refused

#: What says "try again once the socket is ready".
_NOT_YET: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Bytes that are read ahead while a head or a chunk size is read.
_BUFFER: Final = 64 << 10


class DeadlineSocket:
    """A connection; serves one attempt at a time."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        sock.setblocking(False)
        self._sock, self._deadline = sock, deadline
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._readers = 0
        self._closing = False
        self.is_fresh = True
        self.was_heard = False

    def serve(self, deadline: Deadline) -> None:
        """Work for another attempt from here on."""
        self._deadline = deadline
        self.is_fresh = self.was_heard = False

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on.

        Raises:
            TlsError: the handshake or the certificate was refused.
            StalledError, UnreachableError: it did not come to that.
        """
        self._deadline.connecting("shaking hands (TLS)")
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
            raise refused(error, self._deadline) from error

    # --- what http.client and urllib3 call

    def sendall(self, data: bytes, _flags: int = 0) -> None:
        """Send all of `data`.

        Raises:
            StalledError, TransportError: a deadline passed, or the connection broke.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except _NOT_YET as error:
                self._wait(error, select.POLLOUT)
            except OSError as error:
                raise self._deadline.broken(_words(error)) from error

    def receive(self, view: memoryview) -> int:
        """Read what is there into `view`, at least one byte; 0 at the end of a body.

        Raises:
            StalledError, TransportError: a deadline passed, or the connection broke.
        """
        while True:
            try:
                got = self._sock.recv_into(view)
            except _NOT_YET as error:
                self._wait(error)
            except OSError as error:
                raise self._deadline.broken(_words(error)) from error
            else:
                if not got and not self._deadline.is_in_body:
                    raise self._deadline.broken("the server closed the connection")
                self.was_heard = True
                self._deadline.moved(got)
                return got

    def makefile(self, *_arguments: Any, **_options: Any) -> io.BufferedReader:
        """Return a file that reads from here; the socket lives as long as it does."""
        self._readers += 1
        return io.BufferedReader(_SocketReader(self), _BUFFER)

    def settimeout(self, _seconds: float | None) -> None:
        """Nothing: the deadline decides."""

    def fileno(self) -> int:
        """Return the descriptor, to ask whether an idle line was closed or said something unasked."""
        return self._sock.fileno()

    def shutdown(self, how: int) -> None:
        """Stop speaking."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(how)

    def close(self) -> None:
        """Close it once nobody reads from it any more."""
        self._closing = True
        if not self._readers:
            self._sock.close()

    def abandon(self) -> None:
        """Close it at once, whoever reads from it."""
        self._closing = True
        self._sock.close()

    def reader_closed(self) -> None:
        """Note that a file of `makefile` was closed."""
        self._readers -= 1
        if self._closing and not self._readers:
            self._sock.close()

    def _wait(self, why: Exception, event: int = select.POLLIN) -> None:
        """Wait until the socket is ready, in looks short enough to stop soon when asked to."""
        if isinstance(why, ssl.SSLWantWriteError | ssl.SSLWantReadError):
            event = select.POLLOUT if isinstance(why, ssl.SSLWantWriteError) else select.POLLIN
        self._poll.modify(self._sock, event)
        while True:
            left_s = min(LOOK_S, self._deadline.left_s())
            begun = time.monotonic()
            with released:
                ready = self._poll.poll(left_s * 1000)
            self._deadline.waited(time.monotonic() - begun)
            if ready:
                return


class _SocketReader(io.RawIOBase):
    """The reading side of a line as a file."""

    def __init__(self, line: DeadlineSocket) -> None:
        self._line = line

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, view: Any) -> int:
        """Read at least one byte; 0 at the end."""
        return self._line.receive(view)

    def close(self) -> None:
        """Give the line back."""
        if not self.closed:
            super().close()
            self._line.reader_closed()


def _words(error: OSError) -> str:
    """Return what happened, in words without our own library's names."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "the server reset the connection"
    if isinstance(error, ssl.SSLError):
        return f"TLS broke ({error.reason or 'unknown reason'})"
    return (error.strerror or type(error).__name__).lower()
