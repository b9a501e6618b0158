"""Lay out the help page of a command, with the defaults that are in force, and the page of the settings."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tasks_lib.engine.base_command import SETTINGS_ONLY, set_up
from tasks_lib.engine.dodo import read_configuration
from tasks_lib.errors import escaped
from tasks_lib.session import current_session
from tasks_lib.settings import CONVENTIONS, SETTINGS, Given, Setting, in_force
from tasks_lib.vcs.urls import display_url

#: The name by which a dodo.py imports this package.
_PACKAGE: Final = "doit_fetch"
#: Least and most columns of a page; longer lines are hard to read.
_COLUMNS: Final = (40, 100)
_DEFAULT: Final = re.compile(r"\[default: [^\]]*\]")
#: What `-n` means for our runner.
_PROCESS: Final = "number of tasks at the same time [default: %(default)s downloads, other tasks one per processor]"


def of(command: Any, loader: Any, params: Any) -> str:
    """Return the help page of a command, with the defaults of the dodo.py if that is one of ours."""
    config, found = load(loader, params), current_session()
    for name in [name for name in config if name in command.cmdparser]:
        option, value = command.cmdparser[name], config[name]
        option.help = _DEFAULT.sub("[default: %(default)s]", option.help)
        if name == "num_process" and found is not None and config.get("par_type") == "thread":
            option.help, value = _PROCESS, found.settings.jobs
        option.set_default(getattr(value, "__name__", value))  # a reporter or checker may be a class
    return str(command.help())


def load(loader: Any, params: Any) -> Mapping[str, Any]:
    """Load a dodo.py of ours for its settings; return its DOIT_CONFIG, {} when there is none or it cannot be loaded."""
    if not is_ours(params):
        return {}
    token = SETTINGS_ONLY.set(True)
    try:
        set_up(loader, params)
        config: Mapping[str, Any] = loader.load_doit_config()
        return config if current_session() is not None else {}
    except (Exception, SystemExit) as error:
        reason = escaped("; ".join(str(error).split("\n")) or type(error).__name__)
        sys.stderr.write(f"warning: showing the defaults without dodo.py, which cannot be loaded: {reason}\n")
        return {}
    finally:
        SETTINGS_ONLY.reset(token)


def is_ours(params: Any) -> bool:
    """Whether the dodo.py that doit would load names this package; any other one is not loaded for help.

    Source: doit 0.37, `loader.get_module`.
    """
    if current_session() is not None:
        return True
    try:
        here = Path.cwd()
        places = (here, *here.parents) if params["seek_file"] else (here,)
        path = next(path for place in places if (path := place / params["dodoFile"]).exists())
        return _PACKAGE.encode() in path.read_bytes()
    except (OSError, KeyError, StopIteration):  # another loader has other options
        return False


# --- the page of a command


def page(command: Any) -> str:
    """Return the help page of one of our commands: its own options first, those of every command of doit last."""
    own = [option for option in command.cmdparser.options if not option.section]
    core = [option for option in command.cmdparser.options if option.section]
    usage = f"{command.bin_name} {command.name} [OPTION...] {command.doc_usage}"
    sections = {
        "PURPOSE": _wrapped(command.doc_purpose, 4),
        "USAGE": _wrapped(usage, 4),
        "DESCRIPTION": _wrapped(command.doc_description or "", 4),
        "OPTIONS": _options(own),
        "SETTINGS": _pointer(command),
        "OPTIONS OF DOIT": _options(core),
    }
    return "\n\n".join("\n".join((title, *lines)) for title, lines in sections.items() if lines)


def _options(options: Iterable[Any]) -> list[str]:
    lines = []
    for option in options:
        if option.short or option.long:
            lines += [f"    {option.help_param()}", *_meaning(option)]
        if option.inverse:
            lines += [f"    --{option.inverse}", *_wrapped(f"opposite of --{option.long}", 8)]
    return lines


def _meaning(option: Any) -> Iterator[str]:
    config = f"(config: {option.name}" + (f", environ: {option.env_var})" if option.env_var else ")")
    yield from _wrapped(f"{(option.help % {'default': option.default}).rstrip()} {config}", 8)
    if option.choices and option.section:
        yield from _wrapped(f"choices: {', '.join(sorted(option.choices))}", 8)
    elif option.choices:
        yield from _wrapped("choices:", 8)
        yield from (line for name in sorted(option.choices) for line in _wrapped(f"{name}: {option.choices[name]}", 10))


def _pointer(command: Any) -> list[str]:
    """Return where the settings are explained, with their names for a command that runs tasks."""
    if current_session() is None:
        return []
    text = f"`{command.bin_name} help settings` shows every setting, its value and where it comes from."
    if not command.execute_tasks:
        return _wrapped(text, 4)
    lines = _wrapped(
        f"Set one with `{command.bin_name} {command.name} NAME=VALUE`, or as a variable FETCH_... {text}", 4
    )
    return lines + [line for one in SETTINGS for line in _columns(one.variable or one.environ, one.meaning)]


def _columns(name: str, meaning: str) -> list[str]:
    return textwrap.wrap(meaning, _width(), initial_indent=f"    {name:<25}  ", subsequent_indent=31 * " ")


def _wrapped(text: str, indent: int) -> list[str]:
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


def settings_page() -> str:
    """Return the page that shows every setting: its names, its value, where that comes from, the default, the meaning.

    Raises:
        SettingError: pyproject.toml cannot be read.
    """
    configuration = read_configuration()
    lines = _wrapped(
        "Set one on the command line (`doit NAME=VALUE ...`), as a variable of the environment, or in [tool.doit-fetch]"
        " of pyproject.toml; the first of these counts. pyproject.toml has the name of the command line, or that of the"
        " environment in small letters without FETCH_. Shown are both names, the value in force and where it is set.",
        4,
    )
    for one, given, problem in in_force(*configuration):
        lines += ["", _value_line(one, given), *_wrapped(one.meaning, 8)]
        lines += _wrapped(escaped(problem), 8) if problem else []
    names = [name + (" (set)" if configuration.environ.get(name) else "") for name in CONVENTIONS]
    return "\n".join(("SETTINGS", *lines, "", *_wrapped(f"Also honoured in the environment: {', '.join(names)}.", 4)))


def _value_line(one: Setting, given: Given) -> str:
    names = ", ".join(filter(None, (one.variable, one.environ)))
    default = "" if given.origin == "default" else f"; default: {_written(one.default)}"
    return f"    {names}: {_written(given.value)} ({given.origin}{default})"


def _written(value: object) -> str:
    """Return a value as one writes it; what a URL says of user and password is left out."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return escaped(display_url(text) if "://" in text else text) or '""'
