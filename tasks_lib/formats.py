"""Archive formats by file name suffix, and the versions of the archive and tree writers.

They are separate from `archive` and `tree`, so that planning loads neither decoders nor writers, which would take a
third of the time of `doit info`. Pure: no I/O.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: Increment when the archive writer may produce different bytes for the same content.
REPACK_VERSION: Final = 3
#: Increment when the same archive may be extracted to a different tree.
TREE_VERSION: Final = 2
#: Increment when the format of the list or the files of a cached tree change.
_CACHED_TREE_VERSION: Final = 1
#: The version of cached trees, part of their keys.
UNPACKED_VERSION: Final = f"{TREE_VERSION}.{_CACHED_TREE_VERSION}"
#: Modification time of every entry: 1980-01-01T00:00:00Z, the earliest that zip can store; GNU tar warns about 0.
_MTIME: Final = 315_532_800

_SUFFIXES: Final = {
    ".tar": "tar",
    ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".crate": "tar.gz",
    ".tar.bz2": "tar.bz2", ".tbz2": "tar.bz2", ".tbz": "tar.bz2",
    ".tar.xz": "tar.xz", ".txz": "tar.xz",
    ".tar.zst": "tar.zst", ".tzst": "tar.zst", ".tar.zstd": "tar.zst",
    ".zip": "zip",
    ".deb": "deb",
}  # fmt: skip


#: Formats that look like archives and are not extracted: what they are, suffixes, first bytes (b"" for none).
#: Source: file(1), magic/Magdir/archive and magic/Magdir/compress.
_NOT_EXTRACTED: Final = (
    ("a 7z archive", (".7z",), b"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", (".rar",), b"Rar!\x1a\x07"),
    ("lzip data", (".lz", ".tlz"), b"LZIP"),
    ("data of compress", (".z", ".taz"), b"\x1f\x9d"),
    ("lzma data", (".lzma",), b"\x5d\x00\x00"),
    ("lz4 data", (".lz4",), b"\x04\x22\x4d\x18"),
    ("lzop data", (".lzo",), b"\x89LZO"),
    ("brotli data", (".br",), b""),
    ("a cpio archive", (".cpio",), b"07070"),
    ("an RPM package", (".rpm",), b"\xed\xab\xee\xdb"),
    ("a cabinet archive", (".cab",), b"MSCF\0\0\0\0"),
    ("a xar archive", (".xar",), b"xar!"),
    ("a Debian package without the suffix .deb", (".udeb", ".ipk"), b"!<arch>\ndebian-binary"),
    ("an ISO 9660 image", (".iso",), b""),
    ("an Apple disk image", (".dmg",), b""),
    ("a squashfs image", (".squashfs", ".sqfs"), b"hsqs"),
    ("an LHA archive", (".lha", ".lzh"), b""),
    ("an ARJ archive", (".arj",), b""),
)


def describe_not_extracted(name: str, first_bytes: bytes = b"") -> str:
    """Return what a file is that looks like an archive, by name or content, and is not extracted; "" for others."""
    lowered = name.lower()
    for words, suffixes, magic in _NOT_EXTRACTED:
        if lowered.endswith(suffixes) or (magic and first_bytes.startswith(magic)):
            return words
    return ""


#: Formats of one compressed file, and the format whose compression they share.
SINGLE: Final = {"gz": "tar.gz", "bz2": "tar.bz2", "xz": "tar.xz", "zst": "tar.zst"}
#: Formats that are read with libarchive, in a child process.
MORE: Final = ("tar.lz", "tar.Z", "tar.lz4", "7z", "rpm")
#: All formats that a definition can declare.
FORMATS: Final = ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "tar.lzma", "zip", "deb", *SINGLE, *MORE)

#: Endings of compressed files, and what replaces them. Source: gzip(1), bzip2(1), xz(1), zstd(1).
_COMPRESSED: Final = {
    ".gz": "", ".bz2": "", ".xz": "", ".zst": "", ".zstd": "", ".svgz": ".svg",
    ".tgz": ".tar", ".tbz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar",
}  # fmt: skip


class Reshape(msgspec.Struct, frozen=True, kw_only=True):
    """How a tree differs from its archive.

    Drop `strip` leading components of every name, then prepend the text `prefix`; `executable` is 1 to make a single
    file executable.
    """

    strip: int = 0
    prefix: str = ""
    executable: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """What differs, for a recipe key; () for nothing."""
        if self is UNCHANGED:  # for almost all of a plan's definitions
            return ()
        return tuple(f"{name} {value}" for name, value in msgspec.structs.asdict(self).items() if value)


#: A tree that does not differ from its archive.
UNCHANGED: Final = Reshape()


def uncompressed_name(name: str) -> str:
    """Return the name of a compressed file without its ending; the whole name if it has none."""
    for ending, replacement in _COMPRESSED.items():
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)] + replacement
    return name


def format_from_name(name: str) -> str | None:
    """Return the archive format that a file name declares, None if it declares none."""
    lowered = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lowered.endswith(suffix)), None)


def mtime_for(source_date_epoch: int | None) -> int:
    """Return the modification time of every entry of an archive, clamped to `source_date_epoch`.

    Source: reproducible-builds.org, SOURCE_DATE_EPOCH specification, "timestamp clamping".
    """
    return _MTIME if source_date_epoch is None else min(_MTIME, source_date_epoch)


def writer_version(mtime: int) -> str:
    """Return the part of a recipe key that covers everything that shapes a written archive except its definition."""
    return str(REPACK_VERSION) if mtime == _MTIME else f"{REPACK_VERSION}, mtime {mtime}"
