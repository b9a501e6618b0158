"""Downloads of GitHub workflows and actions: the commands of their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from tasks_lib.adopt.findings import FoundDownload
from tasks_lib.adopt.shell import find_in_script

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
