"""The value of one setting: where it comes from, its type and its bounds."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from tasks_lib.directories import expand_cache, expand_home
from tasks_lib.errors import SettingError
from tasks_lib.named import NamedTuple
from tasks_lib.settings.project_file import normalize_keys
from tasks_lib.settings.table import SETTINGS, STORE, Setting

if TYPE_CHECKING:
    from tasks_lib.store import StoreAddress


class GivenValue(NamedTuple):
    """The value given for a setting: `origin` is where it comes from, `name` is the setting's name there."""

    name: str
    value: Any
    origin: str


#: The settings that are directories, and the errno values for a path that cannot be a directory.
_DIRECTORIES: Final = (
    "FETCHDEFS_DIR",
    "FETCH_TOPSRCDIR",
    "FETCH_CACHE_DIR",
    "FETCH_BUILD_DIR",
    "FETCH_PRIVATE_CACHE_DIR",
)
#: Those that are caches.
_CACHES: Final = ("FETCH_CACHE_DIR", "FETCH_PRIVATE_CACHE_DIR")
_INVALID_PATH_ERRNOS: Final = (errno.ELOOP, errno.ENAMETOOLONG)
#: Timeouts that must not be zero; zero does not disable them.
_NONZERO_TIMEOUTS: Final = frozenset({"FETCH_CONNECT_TIMEOUT_S", "FETCH_STALL_TIMEOUT_S"})


def list_effective(
    variables: Mapping[str, Any], environ: Mapping[str, str], project: Mapping[str, Any]
) -> Iterator[tuple[Setting, GivenValue, str]]:
    """Yield each setting, its effective value, and why the value is invalid ("" if it is valid)."""
    table = normalize_keys(project)
    for one in SETTINGS:
        given = _find_given(one, variables, environ, table)
        try:
            yield one, given._replace(value=read_setting(one, variables, environ, table)), ""
        except SettingError as error:
            shown = given._replace(value="(not shown)") if one.environ == STORE else given
            yield one, shown, str(error).splitlines()[0]


def _find_given(
    one: Setting, variables: Mapping[str, Any], environ: Mapping[str, str], table: Mapping[str, Any]
) -> GivenValue:
    """Return the value from the first source that has one."""
    places = (
        GivenValue(one.variable, variables.get(one.variable) if one.variable else None, "command line"),
        GivenValue(one.environ, environ.get(one.environ), "environment"),
        GivenValue(f"[tool.doit-fetch] {one.key}", table.get(one.key), "pyproject.toml"),
    )
    return next(
        (place for place in places if place.value not in (None, "")), GivenValue(one.environ, one.default, "default")
    )


def read_setting(
    one: Setting, variables: Mapping[str, Any], environ: Mapping[str, str], table: Mapping[str, Any]
) -> str | int | float:
    """Return the effective value of a setting.

    Raises:
        SettingError: it is invalid.
    """
    name, given, _ = _find_given(one, variables, environ, table)
    if given == "":
        return ""
    if one.environ == STORE:
        return _store(name, given)
    value = _parse_value(one, name, given)
    if one.environ not in _DIRECTORIES:
        return value
    path = (expand_cache if one.environ in _CACHES else expand_home)(str(value), environ)
    if not path:
        hint = "set XDG_CACHE_HOME to an absolute path, or write the directory"
        raise SettingError(f"invalid value 'user' for {name}: neither XDG_CACHE_HOME nor HOME is set", hint=hint)
    return _directory(name, path)


def _parse_value(one: Setting, name: str, given: Any) -> str | int | float:
    if isinstance(one.default, str):
        if not isinstance(given, str) or "\0" in given:  # TOML allows lists, numbers and any character
            raise SettingError(
                f"invalid value {str(given)[:80]!r} for {name}: expected a string",
                hint=f'write it as "..."; meaning: {one.meaning}',
            )
        if one.choices and given not in one.choices:
            raise SettingError(
                f"invalid value {given[:80]!r} for {name}: expected one of {', '.join(one.choices)}",
                hint="run `doit help settings` to list the settings",
            )
        return given
    word = str(given).lower()
    try:
        value = type(one.default)({"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}.get(word, word))
    except (ValueError, OverflowError):
        value = -1
    if not 0 <= value < 1 << 62:
        what = f"invalid value {str(given)[:80]!r} for {name}"
        raise SettingError(f"{what}: expected a non-negative number", hint=f"meaning: {one.meaning}")
    if not value and one.environ in _NONZERO_TIMEOUTS:
        raise SettingError(f"invalid value 0 for {name}: must be greater than zero", hint=f"meaning: {one.meaning}")
    return value


def parse_store_list(text: str) -> tuple[StoreAddress, ...]:
    """Return the addresses of stores.

    Raises:
        SettingError: a URL is invalid.
    """
    from tasks_lib.store import parse_stores  # needed only with a store

    return parse_stores(text)


def _store(name: str, given: Any) -> str:
    """Return a list of stores; the message of an error does not quote it.

    Raises:
        SettingError: it is invalid.
    """
    if not isinstance(given, str):
        raise SettingError(f"invalid value for {name}: expected a string", hint='write it as "URL,URL"')
    try:
        parse_store_list(given)
    except SettingError as error:
        raise SettingError(f"invalid value for {name}: {error.message}", hint=error.hint) from None
    return given


def _directory(name: str, path: str) -> str:
    """Return the path of a directory, which may not exist yet."""
    reason = ""
    try:
        os.stat(path)  # noqa: PTH116  # a str
    except FileNotFoundError:
        reason = "dangling symlink" if os.path.islink(path) else ""  # noqa: PTH114
    except OSError as error:
        reason = str(error.strerror) if error.errno in _INVALID_PATH_ERRNOS else ""
    if reason:
        raise SettingError(
            f"invalid value {path[:80]!r} for {name}: {reason}", hint="correct the path, or use another directory"
        )
    return path
