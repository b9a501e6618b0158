"""Help page of a command, with the effective defaults, and the page of the settings."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tasks_lib.engine.base_command import SETTINGS_ONLY, load_dodo
from tasks_lib.engine.dodo import GivenSettings, read_configuration
from tasks_lib.errors import SettingError, escape_text
from tasks_lib.session import current_session
from tasks_lib.settings import CONVENTIONS, SECRETS, SETTINGS, GivenValue, Setting, list_credentials, list_effective
from tasks_lib.vcs.urls import display_url

#: The name by which a dodo.py imports this package.
_PACKAGE: Final = "doit_fetch"
#: Minimum and maximum width of a page in columns; longer lines are hard to read.
_COLUMNS: Final = (40, 100)
_DEFAULT: Final = re.compile(r"\[default: [^\]]*\]")
#: Help text of `-n` for the pooled runner.
_PROCESS: Final = "number of concurrent tasks [default: %(default)s downloads, other tasks one per processor]"


def render_command_help(command: Any, loader: Any, params: Any) -> str:
    """Return the help page of a command, with the defaults from dodo.py if that uses this package."""
    config, session = load_config(loader, params), current_session()
    for name in [name for name in config if name in command.cmdparser]:
        option, value = command.cmdparser[name], config[name]
        option.help = _DEFAULT.sub("[default: %(default)s]", option.help)
        if name == "num_process" and session is not None and config.get("par_type") == "thread":
            option.help, value = _PROCESS, session.settings.jobs
        option.set_default(getattr(value, "__name__", value))  # a reporter or checker may be a class
    return str(command.help())


def load_config(loader: Any, params: Any) -> Mapping[str, Any]:
    """Load the settings of a dodo.py that uses this package; return its DOIT_CONFIG, {} if that is not possible."""
    if not uses_doit_fetch(params):
        return {}
    token = SETTINGS_ONLY.set(True)
    try:
        load_dodo(loader, params)
        config: Mapping[str, Any] = loader.load_doit_config()
        return config if current_session() is not None else {}
    except (Exception, SystemExit) as error:
        reason = escape_text("; ".join(str(error).split("\n")) or type(error).__name__)
        sys.stderr.write(f"warning: cannot load dodo.py, showing the built-in defaults: {reason}\n")
        return {}
    finally:
        SETTINGS_ONLY.reset(token)


def uses_doit_fetch(params: Any) -> bool:
    """Return whether the dodo.py that doit would load mentions this package; help does not load any other dodo.py.

    Source: doit 0.37, `loader.get_module`.
    """
    if current_session() is not None:
        return True
    try:
        here = Path.cwd()
        places = (here, *here.parents) if params["seek_file"] else (here,)
        path = next(path for place in places if (path := place / params["dodoFile"]).exists())
        return _PACKAGE.encode() in path.read_bytes()
    except (OSError, KeyError, StopIteration):  # KeyError: another loader has other options
        return False


# --- the page of a command


def render_page(command: Any) -> str:
    """Return the help page of a command of this package: its own options first, doit's common options last."""
    own = [option for option in command.cmdparser.options if not option.section]
    core = [option for option in command.cmdparser.options if option.section]
    usage = f"{command.bin_name} {command.name} [OPTION...] {command.doc_usage}"
    sections = {
        "PURPOSE": _wrap(command.doc_purpose, 4),
        "USAGE": _wrap(usage, 4),
        "DESCRIPTION": _wrap(command.doc_description or "", 4),
        "OPTIONS": _describe_options(own),
        "SETTINGS": _pointer(command),
        "OPTIONS OF DOIT": _describe_options(core),
    }
    return "\n\n".join("\n".join((title, *lines)) for title, lines in sections.items() if lines)


def _describe_options(options: Iterable[Any]) -> list[str]:
    lines = []
    for option in options:
        if option.short or option.long:
            lines += [f"    {option.help_param()}", *_describe_option(option)]
        if option.inverse:
            lines += [f"    --{option.inverse}", *_wrap(f"opposite of --{option.long}", 8)]
    return lines


def _describe_option(option: Any) -> Iterator[str]:
    config = f"(config: {option.name}" + (f", environ: {option.env_var})" if option.env_var else ")")
    yield from _wrap(f"{(option.help % {'default': option.default}).rstrip()} {config}", 8)
    if option.choices and option.section:
        yield from _wrap(f"choices: {', '.join(sorted(option.choices))}", 8)
    elif option.choices:
        yield from _wrap("choices:", 8)
        yield from (line for name in sorted(option.choices) for line in _wrap(f"{name}: {option.choices[name]}", 10))


def _pointer(command: Any) -> list[str]:
    """Return a pointer to the help page of the settings; for commands that run tasks, add a list of the settings."""
    if current_session() is None:
        return []
    text = f"`{command.bin_name} help settings` shows every setting, its value and its origin."
    if not command.execute_tasks:
        return _wrap(text, 4)
    lines = _wrap(
        f"Set one with `{command.bin_name} {command.name} NAME=VALUE` or with an environment variable FETCH_... {text}",
        4,
    )
    return lines + [line for one in SETTINGS for line in _format_columns(one.variable or one.environ, one.meaning)]


def _format_columns(name: str, meaning: str) -> list[str]:
    return textwrap.wrap(meaning, _width(), initial_indent=f"    {name:<25}  ", subsequent_indent=31 * " ")


def _wrap(text: str, indent: int) -> list[str]:
    margin = indent * " "
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(paragraph, _width(), initial_indent=margin, subsequent_indent=margin)
    ]


def _width() -> int:
    least, most = _COLUMNS
    return min(most, max(least, shutil.get_terminal_size().columns))


# --- the page of the settings


def render_settings_page() -> str:
    """Return the page of the settings: names, value, origin of the value, default and meaning of each.

    Raises:
        SettingError: pyproject.toml cannot be read.
    """
    configuration = read_configuration()
    lines = _wrap(
        "Set a setting on the command line (`doit NAME=VALUE ...`), in an environment variable, or in"
        " [tool.doit-fetch] in pyproject.toml; the first of these takes precedence. In pyproject.toml use the name of"
        " the command line, or the name of the variable in lower case without FETCH_. This page shows both names,"
        " the effective value and its origin.",
        4,
    )
    for one, given, problem in list_effective(*configuration[:3]):
        lines += ["", _value_line(one, given), *_wrap(one.meaning, 8)]
        lines += _wrap(escape_text(problem), 8) if problem else []
    lines += _describe_credentials(configuration)
    names = [name + (" (set)" if configuration.environ.get(name) else "") for name in (*CONVENTIONS, *SECRETS)]
    return "\n".join(("SETTINGS", *lines, "", *_wrap(f"Other environment variables used: {', '.join(names)}.", 4)))


def _describe_credentials(configuration: GivenSettings) -> list[str]:
    """Describe the credentials of hosts: the header and the variable of each, not its value."""
    try:
        credentials = list_credentials(configuration.project)
    except SettingError as error:
        return ["", *_wrap(str(error), 4)]
    lines = []
    for one in credentials:
        state = "set" if configuration.environ.get(one.env) else "not set"
        lines += ["", f"    {one.key}", *_wrap(f"header {one.header} from {one.env} ({state})", 8)]
    return lines


def _value_line(one: Setting, given: GivenValue) -> str:
    names = ", ".join(filter(None, (one.variable, one.environ)))
    default = "" if given.origin == "default" else f"; default: {_format_value(one.default)}"
    return f"    {names}: {_format_value(given.value)} ({given.origin}{default})"


def _format_value(value: object) -> str:
    """Return a value in the notation of the command line; omit user and password from URLs."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return escape_text(display_url(text) if "://" in text else text) or '""'
