"""Connection setup: resolve a host name and connect to the first address that responds, within the connect deadline."""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import itertools
import os
import queue
import select
import socket
import threading
import time
from typing import Any, Final, cast

from tasks_lib.errors import TransportError, UnreachableError, escape_text
from tasks_lib.gil import released
from tasks_lib.network import Address, Network, is_denied
from tasks_lib.retry import is_transient_status
from tasks_lib.transport.deadline import CHECK_INTERVAL_S, Deadline
from tasks_lib.transport.deadline_socket import DeadlineSocket
from tasks_lib.transport.proxy import LOGIN_HINT, Proxy
from tasks_lib.transport.urls import Origin

#: Seconds before the next address is tried in parallel to one that does not respond. Source: RFC 8305 section 5.
_ATTEMPT_DELAY_S: Final = 0.25
#: Most addresses tried for one host name.
_MAX_ADDRESSES: Final = 16

SocketAddress = tuple[int, Any]  # family, argument of socket.connect


def connect(host: str, port: int, deadline: Deadline, denied: tuple[Network, ...]) -> socket.socket:
    """Return a socket connected to `host`, by the first of its addresses that responds.

    Raises:
        TransportError: the name cannot be resolved, or no allowed address responds.
        StalledError: the deadline passed.
    """
    deadline.connecting("resolving the host name")
    found = _resolve(host, port, deadline)
    allowed = [one for one in found if not is_denied(_address_of(one), denied)]
    if not allowed:
        raise denied_error(deadline.host, found[0][1][0])
    deadline.connecting("connecting")
    return _Race(_alternate_families(allowed)[:_MAX_ADDRESSES], deadline).run()


def judge(host: str, port: int, deadline: Deadline, denied: tuple[Network, ...]) -> None:
    """Check every address of a host to which another program is about to connect.

    Raises:
        TransportError: the name cannot be resolved, or one of its addresses is in a denied network.
        StalledError: the deadline passed.
    """
    deadline.connecting("resolving the host name")
    for one in _resolve(host, port, deadline):
        if is_denied(_address_of(one), denied):
            raise denied_error(deadline.host, one[1][0])


def denied_error(host: str, address: object) -> TransportError:
    """Return the error for a host whose `address` is in a denied network."""
    return TransportError(
        f"{host}: its address {address} is in a blocked network",
        hint="FETCH_DENY_NETWORKS lists the blocked networks",
    )


def _address_of(found: SocketAddress) -> Address:
    return ipaddress.ip_address(found[1][0].partition("%")[0])


def _alternate_families(addresses: list[SocketAddress]) -> list[SocketAddress]:
    """Return the addresses with alternating families, that of the first one first. Source: RFC 8305 section 4."""
    first = [one for one in addresses if one[0] == addresses[0][0]]
    second = [one for one in addresses if one[0] != addresses[0][0]]
    pairs = itertools.zip_longest(first, second)
    return [one for pair in pairs for one in pair if one is not None]


def _resolve(host: str, port: int, deadline: Deadline) -> list[SocketAddress]:
    """Resolve a host name in a separate thread, because getaddrinfo has no timeout."""
    with contextlib.suppress(ValueError):
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        return [(family, (host, port))]
    answers: queue.SimpleQueue[list[SocketAddress] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, address) for family, _, _, _, address in found])
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    while True:
        with contextlib.suppress(queue.Empty), released:
            answer = answers.get(timeout=min(CHECK_INTERVAL_S, deadline.left_s()))
            if isinstance(answer, list) and answer:
                return answer
            raise UnreachableError(f"{deadline.host}: cannot resolve the host name", transient=True)


class _Race:
    """Connects to several addresses with staggered starts; the first one that responds wins."""

    def __init__(self, addresses: list[SocketAddress], deadline: Deadline) -> None:
        self._waiting, self._deadline = addresses, deadline
        self._running: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._next_at = 0.0
        self._reason = "no address responds"

    def run(self) -> socket.socket:
        """Return the first connected socket; close all others."""
        winner = None
        try:
            while winner is None:
                winner = self._started() or self._answered()
            return winner
        finally:
            for sock in self._running.values():
                if sock is not winner:
                    sock.close()

    def _started(self) -> socket.socket | None:
        """Start to connect to the next address if it is due; return its socket if it connects at once."""
        if not self._waiting or time.monotonic() < self._next_at:
            return None
        family, address = self._waiting.pop(0)
        self._next_at = time.monotonic() + _ATTEMPT_DELAY_S
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._failed(error.errno)
            return None
        self._running[sock.fileno()] = sock
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self._connected(sock, address)
        if code == errno.EINPROGRESS:
            self._poll.register(sock, select.POLLOUT)
        elif code:
            self._running.pop(sock.fileno()).close()
            self._failed(code)
        return None if code else sock

    @staticmethod
    def _connected(sock: socket.socket, address: Any) -> int:
        try:
            return sock.connect_ex(address)
        except OSError as error:  # an address that the kernel does not accept
            return error.errno or errno.EADDRNOTAVAIL

    def _failed(self, code: int | None) -> None:
        self._reason = os.strerror(code).lower() if code else self._reason
        self._next_at = 0.0

    def _answered(self) -> socket.socket | None:
        """Wait for a connection, at most until the next address is due."""
        if not self._running and not self._waiting:
            raise self._deadline.broken(self._reason)
        wait_s = min(CHECK_INTERVAL_S, self._deadline.left_s())
        if self._waiting:
            wait_s = min(wait_s, max(0.0, self._next_at - time.monotonic()))
        with released:
            answered = self._poll.poll(wait_s * 1000)
        for descriptor, _ in answered:
            sock = self._running[descriptor]
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return sock
            self._poll.unregister(descriptor)
            self._running.pop(descriptor).close()
            self._failed(code)
        return None


def open_tunnel(sock: DeadlineSocket, origin: Origin, proxy: Proxy, deadline: Deadline) -> None:
    """Open a tunnel to `origin` over `sock`, a connection to `proxy`.

    Raises:
        TransportError: the proxy refuses (transiently or permanently) or does not speak HTTP.
        StalledError: the proxy does not respond.
    """
    deadline.connecting("requesting a tunnel")
    place = f"{f'[{origin.host}]' if ':' in origin.host else origin.host}:{origin.port}"
    fields = {"Host": place, **proxy.headers}
    head = [f"CONNECT {place} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    response = http.client.HTTPResponse(cast(Any, sock), method="CONNECT")
    try:
        sock.sendall("\r\n".join(head).encode("ascii"))
        response.begin()
    except (http.client.HTTPException, ValueError) as error:
        raise _tunnel_error(origin, deadline, str(error)) from error
    finally:
        response.close()
    if not 200 <= response.status < 300:
        raise _tunnel_error(origin, deadline, f"{response.status} {response.reason}", response.status)


def _tunnel_error(origin: Origin, deadline: Deadline, reason: str, status: int = 0) -> TransportError:
    return TransportError(
        f"{deadline.host}: cannot open a tunnel to {origin.authority}: {escape_text(reason[:120])}",
        hint=LOGIN_HINT if status == 407 else "",
        transient=is_transient_status(status),
    )
