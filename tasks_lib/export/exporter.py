"""Export definitions of a project to a directory: choose, obtain, place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import urlsplit

from tasks_lib.archive import Entry, Reshape, detect_format, read
from tasks_lib.definitions import Debian, Fetch, StaticUrl
from tasks_lib.digest import Integrity
from tasks_lib.errors import ArchiveError, SettingError, TreeError, escape_text
from tasks_lib.export.directory import RECORDS, Changes, ExportDirectory, RecordedFile, WantedFile, open_export
from tasks_lib.export.layouts import (
    LAYOUTS,
    OCI,
    Exported,
    ExportedDownload,
    ExportedProgram,
    ExportLayout,
    ExportTarget,
    ExtractedTree,
)
from tasks_lib.formats import SINGLE
from tasks_lib.fs.files import hash_descriptor
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.project import Project
from tasks_lib.relpath import RelPath
from tasks_lib.steps.definition_types import load_steps

#: The formats that DotSlash extracts. Source: DotSlash, "Artifact Format".
_FORMATS: Final = ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip", *SINGLE)
#: A version at the end of the name of a definition: `ripgrep-14.1.0`.
_VERSION: Final = re.compile(r"[-_.]v?\d[\w.+-]*$")


class Export(NamedTuple):
    """The outcome of an export: what changed, why definitions are left out, and the line of configuration."""

    changes: Changes
    left_out: Sequence[str]
    line: str


def export(
    project: Project, layout_name: str, directory: Path, words: Sequence[str], url_base: str, progress: Progress
) -> Export:
    """Export definitions to a directory; obtain first what the cache does not have.

    The directory is created, and files of others in it stay. `words` are names or globs of definitions, () for all; a
    toolchain means its fetches. `url_base` is the URL at which the directory is served, "" for its `file:` URL.

    Raises:
        SettingError: `url_base` is not a URL, or no layout has this name.
        UnknownNameError: a word matches no definition.
        TreeError: two definitions have one path, a named one has none, or the directory cannot be written.
        FetchError: a download cannot be obtained; see `Project.fetch`.
    """
    if layout_name not in LAYOUTS:
        known = ", ".join((*LAYOUTS, OCI))
        raise SettingError(f"no layout is named {escape_text(layout_name)!r}", hint=f"use one of {known}")
    url = _check_url(url_base)
    with open_export(project, directory, layout_name, progress) as place:
        target = ExportTarget(str(place.path), url or place.path.as_uri())
        task = _Exporter(project, LAYOUTS[layout_name], place, words, progress)
        changes = place.update(task.wanted(target), task.is_stale)
    return Export(changes, task.left_out, task.layout.line(target))


class _Exporter:
    """One export: the files that are wanted, computed from the definitions."""

    def __init__(
        self,
        project: Project,
        layout: ExportLayout,
        place: ExportDirectory,
        words: Sequence[str],
        progress: Progress,
    ) -> None:
        self.layout, self.left_out = layout, list[str]()
        self._project, self._place, self._words, self._progress = project, place, words, progress
        self._fetches = project.select(words)
        self._names = {one.name for one in self._fetches}
        recorded = place.record.files
        self._recorded = {one.sha256: path for path, one in recorded.items() if not one.is_text}
        self._earlier = {name for one in recorded.values() for name in one.names}

    def is_stale(self, one: RecordedFile) -> bool:
        """Return whether a file belongs to no other definition than those of this export."""
        return not self._words or bool(one.names and self._names.issuperset(one.names))

    def wanted(self, target: ExportTarget) -> dict[str, WantedFile]:
        """Return the files of the export by path; obtain their content.

        Raises:
            TreeError, FetchError: as `export`.
        """
        paths = self._paths()
        downloads = [one for users in paths.values() for one in users]
        self._project.obtain([one.name for one in downloads])
        files = {
            path: WantedFile(path, users[0].source.integrity, tuple(one.name for one in users))
            for path, users in paths.items()
        }
        digests = {path: one.sha256 for path, one in self._place.kept(self.is_stale).items()}
        digests.update((path, one.integrity.digest.hex) for path, one in files.items())
        try:
            texts = list(self.layout.texts(Exported(downloads, self._known(), digests, self._trees()), target))
        except ValueError as error:
            raise TreeError(str(error), hint="export only one of them") from None
        for text in texts:
            if text.path in files:
                raise _conflict(files[text.path].names[0], f"the file {text.path}", text.path)
            files[text.path] = WantedFile(text.path, Integrity.of(text.content), text.names, text.content, text.mode)
        _check_directories(files)
        return files

    def _paths(self) -> dict[str, list[ExportedDownload]]:
        """Return the downloads by path.

        Raises:
            TreeError: two definitions have one path, or a named one has none.
        """
        users: dict[str, list[ExportedDownload]] = {}
        for fetch in self._fetches:
            files = self._obtain_files(fetch)
            if not files and not self.layout.has_trees:
                self._leave_out(fetch.name, "it is not one download")
            for file in files:
                self._add_path(users, self._download(fetch.name, file, fetch.platform))
        return users

    def _obtain_files(self, fetch: Fetch) -> list[StaticUrl]:
        """Return the files of a definition as downloads, [] if the layout cannot have them; obtain those of several."""
        if isinstance(fetch.source, Debian) and not self.layout.has_packages:
            return []
        return load_steps(self._project.context, fetch).obtain_downloads(self._progress)

    def _add_path(self, users: dict[str, list[ExportedDownload]], one: ExportedDownload) -> None:
        """Add a download to those of its path.

        Raises:
            TreeError: as `_paths`.
        """
        try:
            path = str(RelPath(self.layout.place(one)))
        except ValueError as error:
            self._leave_out(one.name, f"its URL {error}")
            return
        others = users.setdefault(path, [])
        if others and others[0].sha256 != one.sha256:
            raise _conflict(others[0].name, one.name, path)
        others.append(one)

    def _download(self, name: str, source: StaticUrl, platform: str = "") -> ExportedDownload:
        sha512 = partial(self._sha512, name, source.integrity)
        program = partial(self._program, name.removesuffix(f"@{platform}"), source)
        return ExportedDownload(name, source, sha512, program, platform)

    def _program(self, name: str, source: StaticUrl) -> ExportedProgram:
        context = self._project.context
        with context.cache.open(source.integrity) as file:
            return _find_program(file, source.file_name, name, context.limits((*source.archive, *source.shape)))

    def _known(self) -> list[ExportedDownload]:
        sources = ((one.name, one.source) for one in self._project.select(()))
        return [self._download(name, source) for name, source in sources if isinstance(source, StaticUrl)]

    def _leave_out(self, name: str, reason: str) -> None:
        """Note a definition that the layout cannot have.

        Raises:
            TreeError: the export names it.
        """
        if self._words:
            raise TreeError(f"{name} cannot be exported: {escape_text(reason)}", hint="use another layout: cas has all")
        self.left_out.append(f"{name}: {escape_text(reason)}")

    def _trees(self) -> tuple[ExtractedTree, ...]:
        """Return the trees of the exported archives, and of those of earlier exports that still exist."""
        if not self.layout.has_trees:
            return ()
        found = []
        for fetch in self._project.select(()):
            if not self._project.is_archive(fetch):
                continue
            if fetch.name in self._names or fetch.name in self._earlier:
                found.append(ExtractedTree(fetch.name, _source_directory(self._project.tree(f"fetch:{fetch.name}"))))
        return tuple(found)

    def _sha512(self, name: str, integrity: Integrity) -> str:
        """Return the sha512 of a download, which an earlier export may have computed."""
        if integrity.digest.hex in self._recorded:
            return self._recorded[integrity.digest.hex]
        self._project.obtain([name])
        with self._project.context.cache.open(integrity) as file:
            return hash_descriptor(file.fileno(), "sha512")


def _find_program(file: BinaryIO, file_name: str, name: str, limits: Limits) -> ExportedProgram:
    """Return the only program of an archive, or the one that is called as its definition; else the download itself."""
    plain = ExportedProgram("", file_name)
    programs: list[str] = []

    def see(entry: Entry) -> None:
        if entry.kind == "file" and entry.executable:
            programs.append(entry.path.decode("utf-8", "surrogateescape"))

    try:
        kind = detect_format(file, file_name, limits)
        kind = kind or next((one for one in SINGLE if file_name.endswith(f".{one}")), None)
        if kind not in _FORMATS:
            return plain
        if kind in SINGLE:
            return ExportedProgram(kind, file_name.removesuffix(f".{kind}"))
        file.seek(0)
        read(file, name=file_name, format=kind, reshape=Reshape(), limits=limits, sink=see)
    except ArchiveError:
        return plain
    short = _VERSION.sub("", name)
    called = [path for path in programs if path.rpartition("/")[2] in (name, short)]
    found = programs if len(programs) == 1 else called
    return ExportedProgram(kind, found[0]) if len(found) == 1 else plain


def _source_directory(tree: Path) -> str:
    """Return the directory with the sources: the only directory of a tree, as CMake takes it from an archive.

    Source: CMake, ExternalProject, `extractfile.cmake.in`.
    """
    entries = list(tree.iterdir())
    only = len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink()
    return str((entries[0] if only else tree).absolute())


def _check_directories(files: Mapping[str, WantedFile]) -> None:
    """Require that no file has the path of a directory that another one needs, or of the records.

    Raises:
        TreeError: one has.
    """
    for path, one in files.items():
        parts = path.split("/")
        if parts[0] == RECORDS:
            raise _conflict(one.names[0], "the records of exports", path)
        for size in range(1, len(parts)):
            other = files.get("/".join(parts[:size]))
            if other is not None:
                raise _conflict((other.names or ("",))[0], one.names[0], other.path)


def _conflict(name: str, other: str, path: str) -> TreeError:
    return TreeError(
        f"{escape_text(name)} and {escape_text(other)} have one path in this layout: {escape_text(path)}",
        hint="export one of them, or use a layout that names files by digest, such as cas",
    )


def _check_url(url: str) -> str:
    """Return a URL without the slash at its end.

    Raises:
        SettingError: it is not an absolute URL, or it has a query, credentials or characters that need escapes.
    """
    try:
        parts = urlsplit(url)
        valid = bool(parts.scheme and (parts.netloc or parts.scheme == "file")) and not (parts.query or parts.fragment)
    except ValueError:
        valid = False
    if url and (not valid or "@" in parts.netloc or not url.isascii() or set(url) & set(" \"'<>\\^`{|}")):
        raise SettingError(
            f"invalid value {escape_text(url)!r} for --url-base: expected the URL at which the directory is served",
            hint="for example --url-base https://mirror.example/files",
        )
    return url.rstrip("/")
