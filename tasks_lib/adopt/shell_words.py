"""Words and simple commands of a shell script, read in linear time; nothing is expanded or executed.

Source: POSIX.1-2017, Shell Command Language, sections 2.2 to 2.7.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

#: The next piece of a script; in a word, `#`, `{` and `}` are characters as any others.
_PIECE: Final = re.compile(
    r"(?P<continuation>\\\n)|\\(?P<escaped>.)|'(?P<single>[^']*)(?:'|\Z)|(?P<double>\")|(?P<nested>[$<]\(|`)"
    r"|(?P<expansion>\$\{[^{}\n]{0,300}\}|\$\{\{[^{}\n]{0,300}\}\})"
    r"|<<-?[ \t]*(['\"]?)(?P<document>[A-Za-z_][\w.-]{0,99})\7|(?P<newline>\n)"
    r"|(?P<blank>[ \t\r\f\v]+)|(?P<operator>\|\||&&|;;|[;&|()])|(?P<brace>[{}#])"
    r"|(?P<plain>[^\\'\"$<`\n \t\r\f\v;&|(){}#]+|.)",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\([\\\"$`\n])")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w{0,99})=(.*)", re.DOTALL)


class Word(NamedTuple):
    """A word without its quotes; `line` is the one on which it begins; `kind` is "word", "quoted" or "operator"."""

    text: str
    line: int
    kind: str = "word"


class Command(NamedTuple):
    """A simple command and the operator after it; `|` is followed by the name of the program that reads the output."""

    words: tuple[Word, ...]
    operator: str


def parse(text: str, first_line: int = 1, reader: str = "") -> Iterator[Command]:
    """Yield the simple commands of a script; `reader` reads the output of the last one.

    Bodies of here-documents are not commands.
    """
    commands: list[Command] = []
    words: list[Word] = []
    for word in split(text, first_line):
        if word.kind != "operator":
            words.append(word)
            continue
        if words:
            commands.append(Command(tuple(words), word.text))
        words = []
    if words:
        commands.append(Command(tuple(words), "|" if reader else ""))
    for command, after in itertools.pairwise([*commands, Command((Word(reader, 0),), "")]):
        names = (one.text.rpartition("/")[2] for one in after.words if not assignment(one))
        yield command._replace(operator=f"|{next(names, '')}") if command.operator == "|" else command


def assignment(word: Word) -> tuple[str, str] | None:
    """Return name and value of a word that sets a variable, None for another word."""
    found = _ASSIGNMENT.fullmatch(word.text)
    return (found[1], found[2]) if found else None


def split(text: str, line: int = 1) -> Iterator[Word]:
    """Yield the words and operators of a script."""
    return _Splitter(text, line).words()


class _Splitter:
    """A script that is read from its start."""

    def __init__(self, text: str, line: int) -> None:
        self._text, self._line, self._position = text, line, 0
        self._pieces: list[str] = []
        self._begun, self._kind = 0, "word"
        self._documents: list[str] = []  # their markers; they begin after this line

    def words(self) -> Iterator[Word]:
        while found := _PIECE.match(self._text, self._position):
            self._position = found.end()
            kind = str(found.lastgroup)
            kind = "plain" if kind == "brace" and self._begun else kind
            if kind in ("operator", "newline", "brace", "blank", "document"):
                yield from self._finish()
            if found[0] == "#" and kind == "brace":
                self._skip_comment()
            elif kind in ("operator", "newline", "brace"):
                yield Word(found[0], self._line, "operator")
            else:
                self._take(found, kind)
            self._line += found[0].count("\n")
            if kind == "newline":
                self._skip_documents()
        yield from self._finish()

    def _take(self, found: re.Match[str], kind: str) -> None:
        """Add a piece to the current word, or note a here-document."""
        if kind in ("double", "nested"):
            self._add_nested(found.start(), kind)
        elif kind == "document":
            self._documents.append(found["document"])
        elif kind not in ("blank", "continuation"):
            self._add(found[0] if kind == "plain" else found[kind], "quoted" if kind == "single" else "word")

    def _add(self, text: str, kind: str) -> None:
        if not self._begun:
            self._begun, self._kind = self._line, kind
        self._pieces.append(text)

    def _add_nested(self, start: int, kind: str) -> None:
        """Add what is between double quotes, or a whole substitution with its marks."""
        end = closing(self._text, start)
        if kind == "double":
            content = self._text[start + 1 : end]
            self._add(_ESCAPE.sub(r"\1", content), "quoted")
            self._line += content.count("\n")
        else:
            content = self._text[start : end + 1]
            self._add(content, "word")
            self._line += content.count("\n")
        self._position = end + 1

    def _finish(self) -> Iterator[Word]:
        if self._begun:
            yield Word("".join(self._pieces), self._begun, self._kind)
        self._pieces, self._begun, self._kind = [], 0, "word"

    def _skip_comment(self) -> None:
        end = self._text.find("\n", self._position)
        self._position = end if end >= 0 else len(self._text)

    def _skip_documents(self) -> None:
        """Skip the bodies of the here-documents that begin after this line."""
        for marker in self._documents:
            content = ""
            while content.strip() != marker and self._position < len(self._text):
                end = self._text.find("\n", self._position)
                end = end if end >= 0 else len(self._text)
                content = self._text[self._position : end]
                self._position, self._line = end + 1, self._line + 1
        self._documents = []


_MARKS: Final = {close: re.compile(rf"\\.|\(|{re.escape(close)}", re.DOTALL) for close in (")", '"', "`")}


def closing(text: str, start: int) -> int:
    """Return the position of the character that ends a quotation or substitution; the end of the text if none does."""
    close = {'"': '"', "`": "`"}.get(text[start], ")")
    depth = 0
    for found in _MARKS[close].finditer(text, start + 1):
        if found[0] == "(" and close == ")":
            depth += 1
        elif found[0] == close:
            depth -= close == ")"
            if depth <= 0:
                return found.start()
    return len(text)


def substitutions(word: Word) -> Iterator[tuple[str, int]]:
    """Yield the text and line of each outermost `$(...)`, `<(...)` and backquoted command of a word."""
    position, text = 0, word.text
    while found := re.compile(r"[$<]\(|`").search(text, position):
        end = closing(text, found.start())
        yield text[found.end() : end], word.line + text.count("\n", 0, found.start())
        position = end + 1
