"""A tunnel: a proxy connects us to an origin and then only passes bytes. Source: RFC 9110 section 9.3.6 (CONNECT)."""

from __future__ import annotations

import http.client
from typing import Any, cast

from tasks_lib.errors import TransportError, escaped
from tasks_lib.transport.answer import TRANSIENT
from tasks_lib.transport.deadline import Deadline
from tasks_lib.transport.line import Line
from tasks_lib.transport.proxy import LOGIN_HINT, Proxy
from tasks_lib.transport.urls import Origin


def tunnel(line: Line, origin: Origin, proxy: Proxy, deadline: Deadline) -> None:
    """Have `proxy` connect `line` to `origin`.

    Raises:
        TransportError: the proxy refuses, for now or for good, or is none.
        StalledError: it does not answer.
    """
    deadline.connecting("asking for a tunnel")
    place = f"{f'[{origin.host}]' if ':' in origin.host else origin.host}:{origin.port}"
    fields = {"Host": place, **proxy.headers}
    head = [f"CONNECT {place} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    answer = http.client.HTTPResponse(cast(Any, line), method="CONNECT")
    try:
        line.sendall("\r\n".join(head).encode("ascii"))
        answer.begin()
    except (http.client.HTTPException, ValueError) as error:
        raise _none(origin, deadline, str(error)) from error
    finally:
        answer.close()
    if not 200 <= answer.status < 300:
        raise _none(origin, deadline, f"{answer.status} {answer.reason}", answer.status)


def _none(origin: Origin, deadline: Deadline, told: str, status: int = 0) -> TransportError:
    return TransportError(
        f"{deadline.host}: no tunnel to {origin.authority}: {escaped(told[:120])}",
        hint=LOGIN_HINT if status == 407 else "",
        transient=status in TRANSIENT,
    )
