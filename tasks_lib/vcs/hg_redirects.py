"""Extension of Mercurial that reports a redirect instead of following it; the caller judges where it leads.

hg itself imports this file, with its own Python. Source: Mercurial, `hg help internals.extensions`.
"""

from __future__ import annotations

import sys
import urllib.request

testedwith = "5.6 6.3"


def _report(_handler: object, *request: object) -> None:
    """Report the new URL, the last argument. Source: urllib.request, HTTPRedirectHandler.redirect_request."""
    sys.stderr.write(f"doit-fetch redirect: {request[-1]}\n")


urllib.request.HTTPRedirectHandler.redirect_request = _report  # type: ignore[method-assign, assignment]  # no option forbids redirects
