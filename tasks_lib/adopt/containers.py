"""Downloads of Dockerfiles: `ADD` of a URL, and the commands of `RUN`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tasks_lib.adopt.findings import FoundDownload, expand, find_url
from tasks_lib.adopt.shell import find_in_script

_INSTRUCTION: Final = re.compile(r"[ \t]*(RUN|ADD|ARG|ENV)[ \t]+", re.IGNORECASE)
_HEREDOC: Final = re.compile(r"<<-?(['\"]?)([A-Za-z_]\w{0,99})\1")
_CHECKSUM: Final = re.compile(r"--checksum=sha256:([0-9a-fA-F]{64})$")
_PAIR: Final = re.compile(r"([A-Za-z_]\w{0,99})=(\"[^\"]*\"|'[^']*'|\S*)")
#: Options before the command of RUN and the arguments of ADD. Source: Dockerfile reference.
_OPTION: Final = re.compile(r"(?:--[\w-]+(?:=\S+)?[ \t]+)*")


def find_in_dockerfile(text: str) -> list[FoundDownload]:
    """Return the downloads of a Dockerfile."""
    variables: dict[str, str] = {}
    found: list[FoundDownload] = []
    for line, name, body in _instructions(text):
        if name in ("ARG", "ENV"):
            variables.update((pair[0], expand(pair[1].strip("\"'"), variables)) for pair in _PAIR.findall(body))
        elif name == "RUN":
            found += find_in_script(_OPTION.sub(_blank, body, count=1), line, variables, "dockerfile")
        else:
            found += _find_in_add(line, body, variables)
    return found


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _find_in_add(line: int, body: str, variables: dict[str, str]) -> Iterator[FoundDownload]:
    """Yield the URLs that `ADD` copies; `--checksum` pins the only one. Source: Dockerfile reference, "ADD"."""
    words = re.findall(r"\"[^\"]*\"|[^\s,\[\]]+", body.replace("\\\n", " \n"))
    checksum = next((found[1].lower() for word in words if (found := _CHECKSUM.match(expand(word, variables)))), "")
    for word in words[:-1]:
        if url := find_url(expand(word.strip('"'), variables)):
            at = line + body[: body.find(word)].count("\n")
            yield FoundDownload(at, "add", url, bool(checksum), words[-1].strip('"'), checksum)


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, name and text of each instruction, with its here-document; comments in it become empty lines."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        found = _INSTRUCTION.match(lines[number])
        first, body = number, [lines[number].rstrip("\r")]
        while (body[-1].endswith("\\") or (body[-1] == "" and len(body) > 1)) and number + 1 < len(lines):
            number += 1
            following = lines[number].rstrip("\r")
            body.append("\\" if following.lstrip().startswith("#") else following)
        number += 1
        if found is None:
            continue
        marker = _HEREDOC.search("\n".join(body))
        if marker and found[1].upper() == "RUN":
            body[0] = ""  # a shell reads the here-document, whatever the instruction says besides
            while number < len(lines) and lines[number].strip() != marker[2]:
                body.append(lines[number])
                number += 1
            yield first + 1, "RUN", "\n".join(body)
            continue
        body[0] = " " * found.end() + body[0][found.end() :]
        yield first + 1, found[1].upper(), "\n".join(body)
