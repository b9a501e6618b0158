"""The program in a download, for layouts that run it."""

from __future__ import annotations

import re
from typing import BinaryIO, Final, NamedTuple

from tasks_lib.archive import Entry, Reshape, detect_format, read
from tasks_lib.errors import ArchiveError
from tasks_lib.formats import SINGLE
from tasks_lib.limits import Limits

#: The formats that DotSlash extracts. Source: DotSlash, "Artifact Format".
_FORMATS: Final = ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip", *SINGLE)
#: A version at the end of the name of a definition: `ripgrep-14.1.0`.
_VERSION: Final = re.compile(r"[-_.]v?\d[\w.+-]*$")


class ExportedProgram(NamedTuple):
    """The path of a program in a download of this format; format "" and the file's own name for a plain file."""

    format: str
    path: str


def find_program(file: BinaryIO, file_name: str, name: str, limits: Limits) -> ExportedProgram:
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
