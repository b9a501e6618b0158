"""Downloads of shell scripts: `curl` and `wget`. The text is read into words and commands; nothing is executed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tasks_lib.adopt.findings import FoundDownload, expand, find_url, has_strong_digest
from tasks_lib.adopt.shell_words import Command, Word, assignment, parse, substitutions
from tasks_lib.definitions.values import file_name_of

#: Commands whose words are text and no commands.
_TEXT: Final = frozenset({"echo", "printf", "cat", ":", "read", "grep", "sed", "log", "info", "warn", "die", "error"})
_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "su"})
#: Programs that read a download from their standard input.
_READERS: Final = frozenset(
    {"tar", "bsdtar", "gunzip", "zcat", "xz", "xzcat", "unzip", "bunzip2", "zstd", "cpio", "tee", "dd", "gpg",
     "apt-key", "python", "python3", "perl", "ruby", "node", "sudo", "rpm2cpio", "funzip", "gzip", "bzip2", "patch",
     "git", "docker", "bzcat", "zstdcat", "7z", "lz4", "sponge", "base64", "install", *_SHELLS}
)  # fmt: skip
#: Options of curl that make a request no download, and those that name or keep a file. Source: curl(1).
_CURL_OTHER: Final = frozenset(
    {"-I", "--head", "-d", "--data", "--data-raw", "--data-binary", "--data-urlencode", "--json", "-F", "--form", "-T",
     "--upload-file"}
)  # fmt: skip
_CURL_KEEPS: Final = frozenset({"-O", "--remote-name", "--remote-name-all", "-J", "--remote-header-name"})
#: Options of curl and wget with a value that may look like a URL or a file. Source: curl(1), wget(1).
_CURL_VALUES: Final = frozenset(
    {"-o", "--output", "--output-dir", "-H", "--header", "-u", "--user", "-A", "--user-agent", "-e", "--referer", "-x",
     "--proxy", "-b", "--cookie", "-c", "--cookie-jar", "-m", "--max-time", "--retry", "--retry-delay",
     "--connect-timeout", "-X", "--request", "-w", "--write-out", "--cacert", "-E", "--cert", "--key",
     "--retry-max-time", "-C", "--continue-at", "--url", "-z", "--time-cond", "--proto", "--resolve", "-r",
     "--range", *_CURL_OTHER}
)  # fmt: skip
_WGET_VALUES: Final = frozenset(
    {"-O", "--output-document", "-P", "--directory-prefix", "-o", "--output-file", "-a", "--append-output", "-U",
     "--user-agent", "--header", "-t", "--tries", "-T", "--timeout", "--user", "--password", "--referer", "-i",
     "--input-file", "-w", "--wait"}
)  # fmt: skip
_WGET_OTHER: Final = frozenset({"--spider", "--post-data", "--post-file", "--method", "--body-data"})
_CHECKERS: Final = frozenset({"sha256sum", "sha384sum", "sha512sum", "shasum", "gsha256sum"})
_SHA256: Final = re.compile(r"\b[0-9a-f]{64}\b")
_TOOLS: Final = ("curl", "wget")
_DECLARATIONS: Final = frozenset({"export", "local", "readonly", "declare", "typeset"})
_CHECK: Final = ("-c", "--check", "--status", "--strict")
#: Commands after a download among which the check of its digest is looked for.
_NEAR: Final = 12
_MAX_DEPTH: Final = 4


def find_in_script(
    text: str, first_line: int, variables: Mapping[str, str], syntax: str = "shell"
) -> list[FoundDownload]:
    """Return the downloads of a script; `variables` are those that it gets."""
    return _Script(dict(variables), syntax).findings(text, first_line, _TextPlace())


class _TextPlace(NamedTuple):
    """Where a text is: in how many others, and the program that reads what its last command prints, "" for none."""

    depth: int = 0
    reader: str = ""

    def inside(self, reader: str) -> _TextPlace:
        """Return the place of a text inside this one."""
        return _TextPlace(self.depth + 1, reader)


class _Script:
    """One script: its variables so far, which grow from command to command."""

    def __init__(self, variables: dict[str, str], syntax: str) -> None:
        self._variables, self._syntax = variables, syntax

    def findings(self, text: str, first_line: int, place: _TextPlace) -> list[FoundDownload]:
        commands = [*parse(text, first_line, place.reader)]
        found: list[FoundDownload] = []
        for number, command in enumerate(commands):
            words = self._program(command)
            name = words[0].text.rpartition("/")[2] if words else ""
            if name and name not in _TEXT:
                found += self._downloads(words, commands[number : number + 1 + _NEAR])
            if place.depth < _MAX_DEPTH:
                found += self._nested(command, words, name, place)
        return found

    def _nested(self, command: Command, words: Sequence[Word], name: str, place: _TextPlace) -> Iterator[FoundDownload]:
        """Yield the downloads of texts inside a command: `sh -c TEXT`, `$(TEXT)`, `<(TEXT)`."""
        if name in _SHELLS:
            for before, word in itertools.pairwise(words):
                if re.fullmatch(r"-\w*c", before.text):
                    yield from self.findings(word.text, word.line, place.inside(name))
        is_run = name in (*_SHELLS, "eval", "source", ".") or name.startswith(("$(", "`"))
        for word in command.words:
            for text, line in substitutions(word):
                yield from self.findings(text, line, place.inside("sh" if is_run else ""))

    def _program(self, command: Command) -> tuple[Word, ...]:
        """Return the words of a command without the assignments before it, whose values are noted."""
        words = command.words
        while words:
            if words[0].text in _DECLARATIONS and words[1:]:
                words = words[1:]
                continue
            if not (found := assignment(words[0])):
                return words
            name, value = found
            self._variables.pop(name, None)
            if "$(" not in value and "`" not in value:
                self._variables[name] = expand(value, self._variables)
            words = words[1:]
        return words

    def _downloads(self, words: Sequence[Word], following: Sequence[Command]) -> Iterator[FoundDownload]:
        for number, word in enumerate(words):
            tool = word.text.rpartition("/")[2]
            if tool in _TOOLS and word.kind == "word":
                arguments = words[number + 1 :]
                read = _read_curl(arguments, following[0]) if tool == "curl" else _read_wget(arguments, following[0])
                for url, output in self._urls(read.urls, read.outputs) if read.keeps else ():
                    pinned, digest = self._judge(url, output, following)
                    name = output or ("-" if _is_read(following[0]) else file_name_of(url.text))
                    yield FoundDownload(url.line, self._syntax, url.text, pinned, name, digest)
                return

    def _urls(self, urls: Sequence[Word], outputs: Sequence[str]) -> Iterator[tuple[Word, str]]:
        for number, word in enumerate(urls):
            expanded = expand(word.text, self._variables)
            output = outputs[number] if number < len(outputs) else ""
            if url := find_url(expanded):
                yield word._replace(text=url), expand(output, self._variables)

    def _judge(self, url: Word, output: str, following: Sequence[Command]) -> tuple[bool, str]:
        """Return whether a command near a download checks its digest, and the sha256.

        After another download, only a check that names the file counts. What another program has read is not checked.
        """
        if not output and _is_read(following[0]):
            return False, ""
        name = output.rpartition("/")[2] or file_name_of(url.text)
        text, others = "", 0
        for command in following[1:]:
            words = [expand(word.text, self._variables) for word in command.words]
            text += " ".join([*words, "\n"])
            if _is_check(words):
                foreign = words[-1].rpartition("/")[2] != name and not words[-1].startswith("-")
                own = has_strong_digest(text) or "$" in text or foreign
                if own and (not others or re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text)):
                    return True, next(iter(_SHA256.findall(text)), "")
                text = ""
            others += any(word.rpartition("/")[2] in _TOOLS for word in words[:3])
        return False, ""


def _is_check(words: Sequence[str]) -> bool:
    """Return whether a command compares a file with a strong digest."""
    for number, word in enumerate(words):
        program, options = word.rpartition("/")[2], words[number + 1 :]
        if program == "openssl":
            return any(one.lstrip("-") in ("sha256", "sha384", "sha512") for one in options)
        if program == "shasum" and not re.search(r"256|384|512", " ".join(options)):
            return False
        if program in _CHECKERS:
            return any(one in _CHECK or re.fullmatch(r"-[a-z]*c[a-z]*", one) for one in options)
    return False


class _Arguments(NamedTuple):
    """A command line of curl or wget: `keeps` is whether a file is kept, or another program reads the output."""

    urls: Sequence[Word]
    outputs: Sequence[str]
    keeps: bool


class _CommandOptions(NamedTuple):
    """The options of a command line with their values ("" for none), and its other words."""

    given: Sequence[tuple[str, Word]]
    others: Sequence[Word]

    def values(self, *names: str) -> list[str]:
        """Return the values of some options, in order."""
        return [word.text for name, word in self.given if name in names]


def _read_options(words: Sequence[Word], valued: frozenset[str]) -> _CommandOptions:
    """Split words into options and others, as getopt does; `valued` are the options with a value."""
    given: list[tuple[str, Word]] = []
    others: list[Word] = []
    left = iter(words)
    for word in left:
        name, equals, value = word.text.partition("=")
        if not word.text.startswith("-") or word.text == "-":
            others.append(word)
        elif word.text.startswith("--"):
            given.append((name, word._replace(text=value) if equals or name not in valued else next(left, word)))
        else:
            given += _read_cluster(word, left, valued)
    return _CommandOptions(given, others)


def _read_cluster(word: Word, left: Iterator[Word], valued: frozenset[str]) -> Iterator[tuple[str, Word]]:
    """Yield short options in one word, such as `-fsSLo`: what follows one with a value is the value."""
    for position, letter in enumerate(word.text[1:], 2):
        option = f"-{letter}"
        if option in valued:
            rest = word.text[position:]
            yield option, word._replace(text=rest) if rest else next(left, word._replace(text=""))
            return
        yield option, word._replace(text="")


def _read_curl(words: Sequence[Word], command: Command) -> _Arguments:
    words, redirected = _without_redirection(words)
    options = _read_options(words, _CURL_VALUES)
    names = {name for name, _ in options.given}
    methods = [one.upper() for one in options.values("-X", "--request")]
    outputs = [one for one in options.values("-o", "--output") if one not in ("-", "/dev/null")]
    urls = [word for name, word in options.given if name == "--url"] + [*options.others]
    keeps = bool(outputs or redirected or names & _CURL_KEEPS) or _is_read(command)
    is_other = names & _CURL_OTHER or any(method != "GET" for method in methods)
    return _Arguments(urls, outputs or [redirected], keeps and not is_other)


def _read_wget(words: Sequence[Word], command: Command) -> _Arguments:
    words, redirected = _without_redirection(words)
    options = _read_options(words, _WGET_VALUES)
    outputs = options.values("-O", "--output-document")
    printed = outputs == ["-"] and not redirected and not _is_read(command)
    is_other = {name for name, _ in options.given} & _WGET_OTHER or outputs == ["/dev/null"]
    files = [one for one in outputs if one != "-"]
    return _Arguments(options.others, files or [redirected], not printed and not is_other)


def _is_read(command: Command) -> bool:
    return command.operator.startswith("|") and command.operator[1:] in _READERS


def _without_redirection(words: Sequence[Word]) -> tuple[list[Word], str]:
    """Return the words without redirections, and the file to which the output goes, "" for none."""
    kept: list[Word] = []
    target = ""
    left = iter(words)
    for word in left:
        found = re.fullmatch(r"([012&]?)(>>?|<)(.*)", word.text, re.DOTALL) if word.kind == "word" else None
        if found is None:
            kept.append(word)
            continue
        file = found[3] or next(left, word).text
        if found[1] in ("", "1") and found[2] != "<" and file != "/dev/null" and not file.startswith("&"):
            target = file
    return kept, target
