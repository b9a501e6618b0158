"""MOZ_FETCHES: the list of a task's fetches, parsed strictly and resolved to URLs and directories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from tasks_lib.errors import SettingError, escaped

#: Largest number of entries; Gecko's largest task has about 300.
MAX_ENTRIES: Final = 100_000
_PUBLIC: Final = "public/"


@dataclass(frozen=True, slots=True, kw_only=True)
class MozFetch:
    """One artifact of a task, with its URL and the directory to place it in.

    `delivery` is "extract" or "place"; `trust` is the URL of the task's chain of trust, "" when it is not verified.
    """

    name: str
    task: str
    url: str
    directory: Path
    delivery: str
    trust: str = ""

    @property
    def file_name(self) -> str:
        """The name of the file, without directories."""
        return self.name.rpartition("/")[2]


def parse(environ: Mapping[str, str], base: Path) -> list[MozFetch]:
    """Parse the list in the environment, in its order; directories are below `base`.

    Raises:
        SettingError: no list, an entry without a required key, a directory outside `base`, or no URL to fetch from.
    """
    text = environ.get("MOZ_FETCHES")
    if text is None:
        raise SettingError("MOZ_FETCHES is not set", hint="Taskgraph sets it for tasks that have `fetches`")
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"MOZ_FETCHES is not valid JSON: {error}") from error
    if not isinstance(listed, list) or len(listed) > MAX_ENTRIES:
        raise SettingError(f"MOZ_FETCHES is not a list of at most {MAX_ENTRIES} entries")
    return [_artifact(one, environ, base, f"MOZ_FETCHES entry {at}") for at, one in enumerate(listed, 1)]


def _artifact(one: Any, environ: Mapping[str, str], base: Path, where: str) -> MozFetch:
    if not isinstance(one, dict):
        raise SettingError(f"{where} is not an object")
    name, task = _text(one, "artifact", where), _text(one, "task", where)
    if "extract" not in one:
        raise SettingError(f"{where} ({escaped(name)}) has no 'extract'")
    file_name = name.rpartition("/")[2]
    if file_name in ("", ".", "..") or "\0" in name:
        raise SettingError(f"{where}: artifact {escaped(name)!r} does not end in a valid file name")
    root = _root(environ, "TASKCLUSTER_ROOT_URL")
    host = root if name.startswith(_PUBLIC) else _root(environ, "TASKCLUSTER_PROXY_URL")
    return MozFetch(
        name=name,
        task=task,
        url=_url(host, task, name),
        directory=_directory(one, base, where),
        delivery="extract" if one["extract"] else "place",
        trust=_url(root, task, "public/chain-of-trust.json") if one.get("verify-hash") else "",
    )


def _text(one: Mapping[str, Any], key: str, where: str) -> str:
    value = one.get(key)
    if not isinstance(value, str) or not value:
        raise SettingError(f"{where} has no {key!r}")
    return value


def _root(environ: Mapping[str, str], name: str) -> str:
    root = environ.get(name)
    if not root:
        purpose = "a private artifact" if "PROXY" in name else "fetching artifacts"
        raise SettingError(f"{name} is not set, but required for {purpose}")
    return root.rstrip("/")


def _url(root: str, task: str, name: str) -> str:
    """Return the URL of an artifact. Source: Taskcluster queue, `getLatestArtifact`."""
    return f"{root}/api/queue/v1/task/{quote(task, safe='')}/artifacts/{quote(name)}"


def _directory(one: Mapping[str, Any], base: Path, where: str) -> Path:
    """Return the destination directory, below `base`.

    Raises:
        SettingError: `dest` is not text, or is outside `base`.
    """
    dest = one.get("dest") or ""
    if not isinstance(dest, str) or "\0" in dest:
        raise SettingError(f"{where}: 'dest' is not valid text")
    parts: list[str] = []
    path = PurePosixPath(dest)
    for part in path.parts:
        if part == "..":
            if not parts:
                break
            parts.pop()
        else:
            parts.append(part)
    else:
        if not path.is_absolute():
            return base.joinpath(*parts)
    raise SettingError(
        f"{where}: dest {escaped(dest)!r} is outside the directory {base}", hint="'dest' must be a path below it"
    )
