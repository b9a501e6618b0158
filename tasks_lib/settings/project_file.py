"""The table `[tool.doit-fetch]` of a pyproject.toml, its credentials, and warnings for misspelt names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tasks_lib.directories import load_toml
from tasks_lib.errors import SettingError, escape_text, find_similar
from tasks_lib.named import NamedTuple
from tasks_lib.network import HostCredential, header_fault
from tasks_lib.settings.table import SECRETS, SETTINGS, VARIABLE

#: The table of credentials in `[tool.doit-fetch]`: `auth."HOST"` or `auth."HOST:PORT"`, each with `header` and `env`.
_AUTH: Final = "auth"
_AUTH_HOST: Final = r"(?P<host>[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
#: The table of settings in a pyproject.toml, what its name may look like, and the similarity from which another name
#: counts as misspelt.
_TABLE: Final = "tool.doit-fetch"
_NAMED: Final = r"(?i)do-?it[^a-z\n]{0,9}f"
_ALIKE_TABLE: Final = 0.8
#: Similarity to a setting's name from which an unknown name counts as misspelt: in the environment, and on the command
#: line, which may contain variables of the dodo.py.
_ALIKE: Final = (0.82, 0.9)
_MAX_PORT: Final = 65535


def find_misspelt(variables: Iterable[str], environ: Iterable[str]) -> list[str]:
    """Return a warning for each unknown name that is similar to the name of a setting.

    Args:
        variables: names of doit's command line.
        environ: names of the environment.
    """
    names = {one.environ for one in SETTINGS}, {one.variable for one in SETTINGS} - {""}
    given = [name for name in environ if name.startswith("FETCH") and name not in SECRETS], variables
    odd = [(name, known, like) for known, some, like in zip(names, given, _ALIKE, strict=True) for name in some]
    odd = [(name, known, like) for name, known, like in odd if name not in known]
    if not odd:
        return []
    pairs = ((name, find_similar(name, known, like)) for name, known, like in odd)
    return [f"ignoring unknown setting {name}; did you mean {close[0]}?" for name, close in pairs if close]


class ProjectFile(NamedTuple):
    """`[tool.doit-fetch]` of a pyproject.toml, and a warning for each table whose name is similar."""

    table: Mapping[str, Any]
    warnings: list[str]


def load_project(path: Path) -> ProjectFile:
    """Return the settings in a pyproject.toml; without a file there are none.

    Raises:
        SettingError: the file cannot be read or is not valid TOML, or the value is not a table.
    """
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ProjectFile({}, [])
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path}: not UTF-8 at byte {error.start}", hint="convert it to UTF-8") from error
    if not re.search(_NAMED, text):
        return ProjectFile({}, [])  # parsing takes longer than reading: skip a file without our table
    try:
        content = load_toml(text)
    except ValueError as error:
        raise SettingError(_describe_toml_error(path, error)) from error
    tools = content.get("tool", {})
    table = tools.get("doit-fetch", {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise SettingError(f"{path}: [tool.doit-fetch] is not a table", hint="write `name = value` lines below it")
    return ProjectFile(table, _find_misspelt_tables(path, content))


def _describe_toml_error(path: Path, error: ValueError) -> str:
    """Return the error as `file:line:column: reason`. Source: tomllib, which names the position in the message only."""
    reason, _, position = str(error).rpartition(" (at ")
    found = re.fullmatch(r"line ([0-9]+), column ([0-9]+)\)", position)
    place = f"{path}:{found[1]}:{found[2]}" if found else str(path)
    return f"{place}: invalid TOML: {reason if found else error}"


def _find_misspelt_tables(path: Path, content: Mapping[str, Any]) -> list[str]:
    """Return a warning for each table whose name is similar to `tool.doit-fetch`."""
    tables = [(name, value) for name, value in content.items() if isinstance(value, dict)]
    names = [f"{name}.{inner}" for name, value in tables for inner in value] + [name for name, _ in tables]
    doit = content.get("tool", {}).get("doit", {})
    names += [f"tool.doit.{inner}" for inner in doit] if isinstance(doit, dict) else []
    odd = [name for name in names if re.search(_NAMED, name) and not name.startswith(_TABLE)]
    if not odd:
        return []
    close = find_similar(_TABLE, odd, _ALIKE_TABLE, 3)
    return [f"{path}: [{name}] is not read; did you mean [{_TABLE}]?" for name in close]


def list_credentials(project: Mapping[str, Any]) -> tuple[HostCredential, ...]:
    """Return the credentials of hosts in the table `[tool.doit-fetch]`.

    Raises:
        SettingError: one is invalid; the message quotes no value, which may be a misplaced secret.
    """
    table = project.get(_AUTH, {})
    if not isinstance(table, dict):
        raise _auth_error("", "expected a table for each host")
    return tuple(_credential(host, row) for host, row in table.items())


def normalize_keys(project: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's table with underscores in its keys."""
    return {name.replace("-", "_"): value for name, value in project.items()}


def normalize_table(project: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's table with keys as in `Setting.key`.

    Raises:
        SettingError: a key is unknown.
    """
    known = {one.key for one in SETTINGS} | {_AUTH}
    table = normalize_keys(project)
    for name in table:
        if name not in known:
            close = find_similar(name, known)
            hint = f"did you mean {close[0]}?" if close else "run `doit help settings` to list the settings"
            raise SettingError(f"[tool.doit-fetch]: unknown key {name!r}", hint=hint)
    return table


def _credential(host: str, row: Any) -> HostCredential:
    found = re.fullmatch(_AUTH_HOST, _idna(host.lower()))
    if found is None or int(found["port"] or 0) > _MAX_PORT:
        raise _auth_error(host, "expected HOST or HOST:PORT")
    if not isinstance(row, dict) or set(row) != {"header", "env"}:
        raise _auth_error(host, "expected exactly the keys `header` and `env`")
    header, env = row["header"], row["env"]
    if not isinstance(header, str) or header_fault(header, "x"):
        raise _auth_error(host, "`header` is not the name of a header that may be set")
    if not isinstance(env, str) or not re.fullmatch(VARIABLE, env):
        raise _auth_error(host, "`env` is not the name of an environment variable")
    return HostCredential(found["host"].strip("[]"), int(found["port"] or 0), header, env)


def _idna(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _auth_error(host: str, reason: str) -> SettingError:
    place = f"[tool.doit-fetch.auth{f'.{json.dumps(escape_text(host[:80]))}' if host else ''}]"
    hint = 'write [tool.doit-fetch.auth."gitlab.example"] with header = "PRIVATE-TOKEN" and env = "GITLAB_TOKEN"'
    return SettingError(f"{place}: {reason}", hint=hint)
