"""Downloads that build tools declare: Bazel's rules, CMake's commands, Meson's wraps and DotSlash files."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tasks_lib.adopt.findings import MAX_URL, FoundDownload, expand, find_url, is_commit, is_strong

#: Bazel's rules for downloads, and those for repositories. Source: Bazel, "repo:http.bzl" and "repo:git.bzl".
_HTTP_RULES: Final = frozenset({"http_archive", "http_file", "http_jar"})
_GIT_RULES: Final = frozenset({"git_repository", "new_git_repository"})
#: Python rejects deeper nesting, and so does this.
_UNREADABLE: Final = (SyntaxError, ValueError, RecursionError, MemoryError)


# --- Bazel


def find_in_starlark(text: str) -> list[FoundDownload]:
    """Return the downloads of a WORKSPACE, MODULE.bazel, BUILD or .bzl file; Starlark is a subset of Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        constants: dict[str, str] = {}
        found: list[FoundDownload] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = _text_of(node.value, constants)
                constants.update({node.targets[0].id: value} if value else {})
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (rule := _rule_of(node)):
                found += _find_in_rule(node, rule, constants)
    except _UNREADABLE:
        return []
    return sorted(found)


def _rule_of(call: ast.Call) -> str:
    """Return the name of the rule that is called, also through `maybe`; "" for another function."""
    names = [_name_of(call.func)]
    if names == ["maybe"] and call.args:
        names = [_name_of(call.args[0])]
    return names[0] if names[0] in _HTTP_RULES | _GIT_RULES else ""


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _find_in_rule(call: ast.Call, rule: str, constants: Mapping[str, str]) -> Iterator[FoundDownload]:
    given = {one.arg: one.value for one in call.keywords if one.arg}
    name = _text_of(given["name"], constants) if "name" in given else ""
    places = [given[key] for key in ("urls", "url", "remote") if key in given]
    values = [one for place in places for one in (place.elts if isinstance(place, ast.List | ast.Tuple) else [place])]
    found = [(value.lineno, find_url(_text_of(value, constants))) for value in values]
    line, url = next((one for one in found if one[1]), (0, ""))
    if not url:
        return
    if rule in _GIT_RULES:
        commit = _text_of(given["commit"], constants) if "commit" in given else ""
        yield FoundDownload(line, "bazel", url, is_commit(commit), name, "", commit)
        return
    digest = _text_of(given["sha256"], constants) if "sha256" in given else ""
    unknown = "sha256" in given and not digest and not isinstance(given["sha256"], ast.Constant)
    integrity = _text_of(given["integrity"], constants) if "integrity" in given else ""
    pinned = is_strong(digest) or integrity.startswith(("sha256-", "sha384-", "sha512-")) or unknown
    yield FoundDownload(line, "bazel", url, pinned, name, digest if is_strong(digest) else "")


def _text_of(node: ast.expr, constants: Mapping[str, str]) -> str:
    """Return the value of an expression of texts, with `{}` for unknown parts; "" if it is not text or too long."""
    text = ""
    if isinstance(node, ast.Constant):
        text = node.value if isinstance(node.value, str) else ""
    elif isinstance(node, ast.Name):
        text = constants.get(node.id, "")
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text_of(node.left, constants), _text_of(node.right, constants)
        text = (left or "{}") + (right or "{}") if left or right else ""
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        values = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
        text = _filled(_text_of(node.left, constants), r"%[sd]", [_text_of(one, constants) for one in values])
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = _formatted(node, node.func.value, constants)
    return text if len(text) <= MAX_URL else ""


def _formatted(call: ast.Call, template: ast.expr, constants: Mapping[str, str]) -> str:
    named = {one.arg: _text_of(one.value, constants) for one in call.keywords if one.arg}
    text = re.sub(r"\{(\w{1,99})\}", lambda found: named.get(found[1]) or found[0], _text_of(template, constants))
    return _filled(text, r"\{\d?\}", [_text_of(one, constants) for one in call.args])


def _filled(text: str, pattern: str, values: list[str]) -> str:
    left = iter(values)
    return re.sub(pattern, lambda _: next(left, "") or "{}", text)


# --- CMake


class _Argument(NamedTuple):
    text: str
    line: int


_CMAKE: Final = re.compile(
    r"(?P<space>[ \t\r;]+)|(?P<newline>\n)|\#\[(?P<commented>=*)\[|(?P<comment>\#[^\n]*)|\[(?P<bracket>=*)\["
    r"|(?P<quote>\")|(?P<open>\()|(?P<close>\))|(?P<word>(?:\\.|[^\s\"()#\\])+)|(?P<other>.)",
    re.DOTALL,
)
_QUOTED: Final = re.compile(r"(?:[^\"\\]|\\.)*", re.DOTALL)
_DECLARES: Final = ("fetchcontent_declare", "externalproject_add", "cpmaddpackage")
_HASH: Final = re.compile(r"(SHA\d+(?:_\d+)?)=([0-9a-fA-F]+)")


def find_in_cmake(text: str) -> list[FoundDownload]:
    """Return the downloads of a CMake file. Source: CMake, FetchContent; ExternalProject; file(DOWNLOAD)."""
    variables: dict[str, str] = {}
    found: list[FoundDownload] = []
    for name, arguments in _cmake_commands(text):
        if name == "set" and len(arguments) >= 2:
            variables[arguments[0].text] = expand(arguments[1].text, variables)
        elif name in _DECLARES:
            found += _find_in_declaration(arguments, variables)
        elif name == "file" and len(arguments) > 2 and arguments[0].text.upper() == "DOWNLOAD":
            found += _find_in_declaration([_Argument("", 0), _Argument("URL", 0), *arguments[1:]], variables)
    return found


def _find_in_declaration(arguments: list[_Argument], variables: Mapping[str, str]) -> Iterator[FoundDownload]:
    name = arguments[0].text if arguments else ""
    given: dict[str, list[_Argument]] = {}
    key = ""
    for one in arguments[1:]:
        if re.fullmatch(r"[A-Z][A-Z0-9_]+", one.text) and one.text not in given:
            key = one.text
            given[key] = []
        elif key:
            given[key].append(one._replace(text=expand(one.text, variables)))
    urls = [(one.line, find_url(one.text)) for one in given.get("URL", ())]
    line, url = next((one for one in urls if one[1]), (0, ""))
    if url:
        hashes = [one.text for key in ("URL_HASH", "EXPECTED_HASH") for one in given.get(key, ())]
        matches = [_HASH.fullmatch(one) for one in hashes]
        pinned = any(is_strong(one[2]) for one in matches if one) or any("${" in one for one in hashes)
        digest = next((one[2].lower() for one in matches if one and one[1] == "SHA256"), "")
        yield FoundDownload(line, "cmake", url, pinned, name, digest if is_strong(digest) else "")
    for one in given.get("GIT_REPOSITORY", [])[:1]:
        if repository := find_url(one.text):
            tag = "".join(value.text for value in given.get("GIT_TAG", [])[:1])
            yield FoundDownload(one.line, "cmake", repository, is_commit(tag), name, "", tag)


def _cmake_commands(text: str) -> Iterator[tuple[str, list[_Argument]]]:
    """Yield each command with its arguments. Source: cmake-language(7)."""
    depth, name, arguments = 0, "", list[_Argument]()
    for kind, one in _cmake_tokens(text):
        if kind == ")":
            if depth == 1:
                yield name.lower(), arguments
                name, arguments = "", []
            depth = max(depth - 1, 0)
        elif kind == "(":
            depth += 1
        elif depth:
            arguments.append(one)
        else:
            name = one.text


def _cmake_tokens(text: str) -> Iterator[tuple[str, _Argument]]:
    """Yield words and parentheses without comments, in linear time; the kind of a word is "word"."""
    position, line = 0, 1
    while found := _CMAKE.match(text, position):
        kind, start, position = str(found.lastgroup), found.start(), found.end()
        value = found[0]
        if kind in ("commented", "bracket"):
            mark = f"]{found[kind]}]"
            end = text.find(mark, position)
            end = end if end >= 0 else len(text)
            value, position = text[position:end], end + len(mark)
        elif kind == "quote":
            quoted = _QUOTED.match(text, position)
            value = quoted[0] if quoted else ""
            position += len(value) + 1
        if kind in ("word", "quote", "bracket"):
            yield "word", _Argument(value, line)
        elif kind in ("open", "close"):
            yield value, _Argument(value, line)
        line += text.count("\n", start, position)


# --- Meson


_WRAPS: Final = {
    "wrap-file": ("source_url", "source_hash"),
    "wrap-git": ("url", "revision"),
    "wrap-hg": ("url", "revision"),
}


def find_in_wrap(text: str) -> list[FoundDownload]:
    """Return the downloads of a wrap file. Source: Meson, "Wrap dependency system manual"."""
    section, values = "", dict[str, tuple[int, str]]()
    for number, line in enumerate(text.split("\n"), 1):
        if found := re.fullmatch(r"\[([\w-]{1,50})\]\s*", line):
            section = section or found[1]
        elif section and "=" in line:
            key, _, value = line.partition("=")
            values.setdefault(key.strip(), (number, value.strip()))
    if section not in _WRAPS:
        return []
    findings: list[FoundDownload] = []
    pairs = [_WRAPS[section], ("patch_url", "patch_hash")]
    name = values.get("directory", (0, ""))[1]
    for place, pin in pairs:
        number, text = values.get(place, (0, ""))
        if url := find_url(text):
            pinned_to = values.get(pin, (0, ""))[1]
            is_commit_pin = pin == "revision"
            pinned = is_commit(pinned_to) if is_commit_pin else is_strong(pinned_to)
            digest = pinned_to.lower() if len(pinned_to) == 64 and not is_commit_pin else ""
            findings.append(
                FoundDownload(number, "meson", url, pinned, name, digest, pinned_to if is_commit_pin else None, pin)
            )
    return findings


# --- DotSlash


_MARK: Final = re.compile(r"#![^\n]{0,100}\bdotslash\s*\n")
#: Platforms of one file that are read; DotSlash knows six.
_MAX_PLATFORMS: Final = 100
_COMMENT: Final = re.compile(r"(\"(?:[^\"\\\n]|\\.)*\")|//[^\n]*|/\*.*?(?:\*/|\Z)|,(?=\s*[}\]])", re.DOTALL)


def find_in_dotslash(text: str) -> list[FoundDownload]:
    """Return the downloads of a DotSlash file, one for each URL. Source: DotSlash, "DotSlash File"."""
    start = _MARK.match(text)
    if start is None:
        return []
    try:
        document = json.loads(_COMMENT.sub(lambda found: found[1] or " ", text[start.end() :]))
    except (ValueError, RecursionError):
        return []
    platforms = document.get("platforms") if isinstance(document, dict) else None
    found: dict[str, FoundDownload] = {}
    for entry in list(platforms.values())[:_MAX_PLATFORMS] if isinstance(platforms, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("providers"), list):
            continue
        url = next(filter(None, map(_provider_url, entry["providers"])), "")
        digest = entry.get("digest")
        if url and url not in found:
            line = text[: max(text.find(url.rpartition("/")[2]), 0)].count("\n") + 1
            strong = isinstance(digest, str) and is_strong(digest)
            sha256 = str(digest).lower() if strong and entry.get("hash") == "sha256" else ""
            found[url] = FoundDownload(line, "dotslash", url, strong, str(entry.get("path", "")), sha256)
    return list(found.values())


def _provider_url(provider: Any) -> str:
    """Return the URL of a provider, also of a release of GitHub, "" for an unknown one."""
    if not isinstance(provider, dict):
        return ""
    if provider.get("type") == "github-release":
        repository, tag, name = (str(provider.get(key, "")) for key in ("repo", "tag", "name"))
        repository = repository if "://" in repository else f"https://github.com/{repository}"
        return find_url(f"{repository}/releases/download/{tag}/{name}")
    return find_url(str(provider.get("url", "")))
