"""Hooks of mkdocs: show the name of a file above its block, and make links of `docs/NAME.md` in a text."""

from __future__ import annotations

import posixpath
import re
from typing import Any, Final

_TITLE: Final = re.compile(r"^(```\w+) title=(\S+)$", re.MULTILINE)
_PAGE: Final = re.compile(r"(?<![\w/(\[`])docs/((?:decisions/)?[\w-]+)(\.md)?(?![\w/`*-]|\.\w)")


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """Return the text of a page for Python-Markdown, whose code blocks have no titles."""
    here = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        names = [file.src_uri for file in files if file.src_uri.startswith(found[1])]
        exact = [name for name in names if name == f"{found[1]}.md" or name.startswith("decisions/")]
        return f"[{found[1]}]({posixpath.relpath(exact[0], here or '.')})" if exact else found[0]

    parts = re.split(r"(^```[\s\S]*?^```$|^    .*$|`[^`\n]*`)", markdown, flags=re.MULTILINE)
    return "".join(
        _TITLE.sub(r"**\2**\n\n\1", part) if number % 2 else _PAGE.sub(link, part) for number, part in enumerate(parts)
    )
