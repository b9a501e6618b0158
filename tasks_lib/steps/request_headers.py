"""The request headers of a definition, resolved for its origin."""

from __future__ import annotations

from collections.abc import Mapping

from tasks_lib.context import Context
from tasks_lib.definitions import StaticUrl
from tasks_lib.errors import SettingError
from tasks_lib.network import has_reference, resolve_headers
from tasks_lib.transport import proxy, urls


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
