"""Completion of `doit-fetch` in bash, zsh and fish: names of commands, of options and of definitions.

A script has the commands and options of the version that wrote it, and asks `doit-fetch completion names` for the names
of definitions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from doit.cmd_base import DodoTaskLoader
from doit.doit_cmd import DoitMain

#: Commands that take names of definitions.
NAMING: Final = ("get", "path", "run", "list", "info", "why", "graph", "forget", "clean", "ignore", "verify")
_LONG: Final = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_BASH: Final = """\
# bash completion for doit-fetch; written by `doit-fetch completion bash`
_doit_fetch() {
    local cur=${COMP_WORDS[COMP_CWORD]} command= words= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --) return ;;
            -* | *=*) ;;
            *) [[ $command ]] || command=${COMP_WORDS[i]} ;;
        esac
    done
    if [[ $cur == -* ]]; then
        case $command in
{options}
        esac
    elif [[ ! $command ]]; then
        words="{commands} $(doit-fetch completion names 2>/dev/null)"
    else
        case $command in
            completion) words="bash fish zsh" ;;
            help) words="{commands}" ;;
            {other}) ;;
            *) words=$(doit-fetch completion names 2>/dev/null) ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _doit_fetch doit-fetch
"""
_ZSH: Final = """\
#compdef doit-fetch
# zsh completion for doit-fetch; written by `doit-fetch completion zsh`
_doit_fetch() {
    local command= word
    local -a found
    for word in ${words[2,CURRENT-1]}; do
        case $word in
            (--) _default; return ;;
            (-*|*=*) ;;
            (*) [[ -n $command ]] || command=$word ;;
        esac
    done
    if [[ ${words[CURRENT]} == -* ]]; then
        case $command in
{options}
        esac
    elif [[ -z $command ]]; then
        found=({commands} ${(f)"$(doit-fetch completion names 2>/dev/null)"})
    else
        case $command in
            (completion) found=(bash fish zsh) ;;
            (help) found=({commands}) ;;
            ({other}) ;;
            (*) found=(${(f)"$(doit-fetch completion names 2>/dev/null)"}) ;;
        esac
    fi
    compadd -- $found || _default
}
if [[ ${funcstack[1]} == _doit-fetch ]]; then
    _doit_fetch "$@"
else
    compdef _doit_fetch doit-fetch
fi
"""
_FISH: Final = """\
# fish completion for doit-fetch; written by `doit-fetch completion fish`
complete -c doit-fetch -e
complete -c doit-fetch -n __fish_is_first_arg -f -a '{commands} (doit-fetch completion names 2>/dev/null)'
complete -c doit-fetch -n '__fish_seen_subcommand_from {naming}' -a '(doit-fetch completion names 2>/dev/null)'
complete -c doit-fetch -n '__fish_seen_subcommand_from path run' -f
complete -c doit-fetch -n '__fish_seen_subcommand_from help' -f -a '{commands}'
complete -c doit-fetch -n '__fish_seen_subcommand_from completion' -f -a 'bash fish zsh'
{options}
"""


def write_script(shell: str, own: Mapping[str, str]) -> str:
    """Return the completion script of a shell: bash, zsh or fish.

    `own` has the help page of each command of the program; that of the program itself has the name "".
    """
    options = {name: sorted(set(_LONG.findall(page))) for name, page in own.items()} | _options_of_doit(own)
    commands = " ".join(sorted(filter(None, options)))
    other = " | ".join(sorted(name for name in options if name and name not in NAMING))
    script = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    rows = {"bash": _bash_row, "zsh": _zsh_row, "fish": _fish_row}[shell]
    values = {"commands": commands, "other": other, "naming": " ".join(NAMING)}
    values["options"] = "\n".join(rows(name, found) for name, found in sorted(options.items(), reverse=True))
    for name, value in values.items():  # shells use braces, too
        script = script.replace(f"{{{name}}}", value)
    return script


def _bash_row(name: str, options: list[str]) -> str:
    return f'            {name or "*"}) words="{" ".join(options)}" ;;'


def _zsh_row(name: str, options: list[str]) -> str:
    return f"            ({name or '*'}) found=({' '.join(options)}) ;;"


def _fish_row(name: str, options: list[str]) -> str:
    condition = f"'__fish_seen_subcommand_from {name}'" if name else "__fish_is_first_arg"
    words = " ".join(f"-l {option.removeprefix('--')}" for option in options)
    return f"complete -c doit-fetch -n {condition} {words}"


def _options_of_doit(own: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the long options of doit's commands that the program does not replace."""
    main: Any = DoitMain()  # type: ignore[no-untyped-call]  # doit has no types
    commands, loader = main.get_cmds(), DodoTaskLoader()  # type: ignore[no-untyped-call]
    found: dict[str, list[str]] = {}
    for name in sorted(set(commands) - set(own)):
        command = commands.get_plugin(name)(task_loader=loader, config={}, bin_name="doit", cmds=commands)
        found[name] = sorted({"--help", *(f"--{option.long}" for option in command.cmdparser.options if option.long)})
    return found
