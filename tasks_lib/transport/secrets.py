"""Secrets that were sent: find them in what servers answer, so that no output, record or file gets them.

A server may repeat a request, for example on an error page. Pure: reads only the file that it is given.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import takewhile, tee
from typing import BinaryIO, Final
from urllib.parse import quote, unquote_plus

from tasks_lib.errors import IntegrityError

#: Least characters of a secret: shorter words occur in any text. The second one is for words of a query.
_LEAST: Final = 4
_LEAST_IN_QUERY: Final = 8
#: Words of the latest queries that are remembered; many files may have one each.
_MOST_OF_QUERIES: Final = 512
#: Characters by which the beginning of a secret is recognised: a quotation may end in the middle of one.
_RECOGNISED: Final = 6
#: Beginnings of words that are kept before those of forgotten words are dropped.
_MOST_STARTS: Final = 4 * _MOST_OF_QUERIES
#: Words that are the same in JSON, in HTML and percent-encoded. Source: RFC 3986 section 2.3, unreserved characters.
_SAME_IN_ALL: Final = re.compile(r"[A-Za-z0-9._~-]*")
_CHUNK: Final = 1 << 20
_HIDDEN: Final = "***"
#: Schemes of an Authorization, which precede the secret. Source: RFC 9110 section 11.1 and its registry of schemes.
_SCHEMES: Final = frozenset({"basic", "bearer", "digest", "negotiate", "token", "apikey"})
#: Headers whose values are not secrets. Source: RFC 9110 sections 10.1 and 12.5.
_PUBLIC: Final = re.compile(r"accept(-.*)?|user-agent|referer", re.IGNORECASE)


class SentSecrets:
    """The secrets in the requests of one transport; used by all its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._words: dict[str, None] = {}  # a set that keeps its order
        self._query_words: dict[str, None] = {}
        self._starts: set[str] = set()  # at least those of all words
        self._sizes: set[int] = set()  # the lengths of `_starts`

    def add(self, headers: Mapping[str, str], url: str) -> None:
        """Add the values of `headers` and the query of `url`."""
        if not headers and "?" not in url:
            return
        words = dict.fromkeys(_variants(_words_of_headers(headers)))
        query_words = dict.fromkeys(_variants(_words_of_query(url.partition("?")[2])))
        with self._lock:
            self._words |= words
            self._query_words |= query_words
            while len(self._query_words) > _MOST_OF_QUERIES:
                del self._query_words[next(iter(self._query_words))]
            if len(self._starts) > _MOST_STARTS:
                self._starts.clear()
                words = {**self._words, **self._query_words}
            self._starts.update([word[:_RECOGNISED] for word in (*words, *query_words)])
            self._sizes.update({min(len(word), _RECOGNISED) for word in (*words, *query_words)})

    def redact(self, text: str) -> str:
        """Return `text` without the secrets; the beginning of one is replaced too."""
        if not self._words and not self._query_words:
            return text
        with self._lock:
            if not self._may_begin_in(text):
                return text
            words = [*self._words, *self._query_words]
        for word in sorted(words, key=len, reverse=True):
            at = text.find(word[:_RECOGNISED])
            while at >= 0:
                alike = takewhile(lambda pair: pair[0] == pair[1], zip(word, text[at:], strict=False))
                text = text[:at] + _HIDDEN + text[at + sum(1 for _ in alike) :]
                at = text.find(word[:_RECOGNISED], at + len(_HIDDEN))
        return text

    def _may_begin_in(self, text: str) -> bool:
        """Return whether the beginning of a secret may be in `text`: most texts have none, and there are many words."""
        return any(
            not self._starts.isdisjoint([text[at : at + size] for at in range(len(text) - size + 1)])
            for size in self._sizes
        )

    def are_in(self, file: BinaryIO) -> bool:
        """Return whether the file contains a value of a header that was sent."""
        file.seek(0)
        return any(self._found(iter(lambda: file.read(_CHUNK), b"")))

    def refuse(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield `pieces`, up to one with which they contain a value of a header that was sent.

        Raises:
            IntegrityError: they contain one.
        """
        first, second = tee(pieces)
        for piece, found in zip(first, self._found(second), strict=True):
            if found:
                raise IntegrityError("the content repeats a credential of the request, and is not kept")
            yield piece

    def _found(self, pieces: Iterable[bytes]) -> Iterator[bool]:
        """Yield for each piece whether a secret ends in it."""
        with self._lock:
            words = [word.encode("utf-8", "surrogateescape") for word in self._words]
        longest = max(map(len, words), default=0)
        before = b""
        for piece in pieces:
            window = before + piece
            yield any(word in window for word in words)
            before = window[-longest:]


def _words_of_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the words of the values: a server may repeat only the token of `Bearer TOKEN` or `name=TOKEN`."""
    for name, value in headers.items():
        if _PUBLIC.fullmatch(name):
            continue
        words = [word for word in re.split(r'[\s,;"]+', value) if word.lower() not in _SCHEMES]
        for word in (*words, *(word.partition("=")[2] for word in words)):
            if len(word) >= _LEAST:
                yield word
        if value[:6].lower() == "basic ":
            with contextlib.suppress(ValueError):
                password = base64.b64decode(value[6:]).decode("utf-8", "replace").partition(":")[2]
                yield from [password] if len(password) >= _LEAST else []


def _words_of_query(query: str) -> Iterator[str]:
    values = [part.partition("=")[2] for part in query.split("&")]
    for word in (query, *map(unquote_plus, values), *values):
        if len(word) >= _LEAST_IN_QUERY:
            yield word


def _variants(words: Iterable[str]) -> Iterator[str]:
    """Yield each word as plain text, in JSON, in HTML and percent-encoded."""
    for word in dict.fromkeys(words):
        if _SAME_IN_ALL.fullmatch(word):
            yield word
        else:
            yield from _encoded(word)


@lru_cache(maxsize=64)
def _encoded(word: str) -> tuple[str, ...]:
    return word, json.dumps(word)[1:-1], html.escape(word), quote(word, safe="")
