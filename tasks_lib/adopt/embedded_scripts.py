"""Downloads of files that contain commands of a shell: Dockerfiles, and workflows and actions of GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

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


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHELLS: Final = ("bash", "sh")


def find_in_workflow(text: str) -> list[FoundDownload]:
    """Return the downloads in the `run` of each step. Source: GitHub, "Workflow syntax for GitHub Actions"."""
    try:
        root = yaml.compose(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    lines = text.split("\n")
    found: list[FoundDownload] = []
    for step, variables in _mappings(root):
        run, shell = step.get("run"), step.get("shell")
        if isinstance(run, yaml.ScalarNode) and _is_posix(shell):
            block = run.style in ("|", ">")
            first = run.start_mark.line + block
            raw = "\n".join(lines[first : run.end_mark.line + (not block)])
            raw = raw.replace("\n", " \\\n") if run.style == ">" else raw  # its lines are joined
            found += find_in_script(raw if block else run.value, first + 1, variables, "github")
    return found


def _is_posix(shell: Any) -> bool:
    return shell is None or (isinstance(shell, yaml.ScalarNode) and shell.value.split(" ")[0] in _SHELLS)


def _mappings(root: Any) -> Iterator[tuple[Mapping[str, Any], Mapping[str, str]]]:
    """Yield each mapping by key, with the variables of its `env` and of those around it; each node once."""
    waiting: list[tuple[Any, dict[str, str]]] = [(root, {})]
    seen: set[int] = set()
    while waiting:
        node, variables = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(one, variables) for one in reversed(node.value)]
        elif isinstance(node, yaml.MappingNode):
            found = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
            own = found.get("env")
            if isinstance(own, yaml.MappingNode):
                pairs = [
                    (k, v) for k, v in own.value if isinstance(k, yaml.ScalarNode) and isinstance(v, yaml.ScalarNode)
                ]
                variables = {**variables, **{key.value: value.value for key, value in pairs}}
            yield found, variables
            waiting += [(value, variables) for _, value in reversed(node.value)]
