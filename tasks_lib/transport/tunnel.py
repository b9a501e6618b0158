"""A tunnel: a proxy connects us to an origin and then only passes bytes. Source: RFC 9110 section 9.3.6 (CONNECT)."""

from __future__ import annotations

import http.client
from typing import Any, cast

from tasks_lib.errors import TransportError, escaped
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.line import Line
from tasks_lib.transport.proxy import Proxy
from tasks_lib.transport.urls import Origin


def tunnel(line: Line, origin: Origin, proxy: Proxy, deadline: Deadline) -> None:
    """Have `proxy` connect `line` to `origin`.

    Raises:
        TransportError: the proxy refuses, or is none.
        StalledError: it does not answer.
    """
    deadline.connecting("asking for a tunnel")
    connection = http.client.HTTPConnection(proxy.host, proxy.port)
    connection.set_tunnel(origin.host, origin.port, proxy.headers)
    connection.sock = cast(Any, line)
    try:
        cast(Any, connection)._tunnel()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransportError(
            f"{deadline.host}: no tunnel to {origin.authority}: {escaped(str(error)[:120])}"
        ) from error
