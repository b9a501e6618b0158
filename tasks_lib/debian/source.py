"""Source packages: what a .dsc says, and whether its signature covers all of it. Pure: no I/O.

A .dsc is one paragraph, clear-signed or not, that names each file of the package with its size and digest. Whatever a
reader of the file could take for more than that is refused: dpkg-source must read what was verified.
Source: dsc(5); Debian Policy 4.7, section 5.4; RFC 9580 section 7 (clear-signed text).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tasks_lib.debian.deb822 import parse_paragraph
from tasks_lib.digest import Digest, Integrity
from tasks_lib.errors import SignatureError, SourcePackageError, UnsafePathError, escape_text

#: Largest .dsc in bytes. The largest of the Debian archive, that of the kernel, is below 300 KiB.
MAX_DSC_BYTES: Final = 4 << 20
#: Maximum number of files of a package; a package with a hundred upstream tarballs is unusual.
MAX_FILES: Final = 1000
#: Source: Debian Policy 4.7, sections 5.6.1 (names) and 5.6.12 (versions).
_PACKAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]{0,199}")
_VERSION: Final = re.compile(r"(?:[0-9]{1,9}:)?([A-Za-z0-9][A-Za-z0-9.+~-]{0,199})")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_:@=%,-]{0,249}")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,17}")
#: Fields that name files, each with the number of hex digits of its digests. Source: Policy 5.6.21 and 5.6.24.
_LISTS: Final = {"files": 32, "checksums-sha1": 40, "checksums-sha256": 64, "checksums-sha512": 128}
_SHA256: Final = "checksums-sha256"

_BEGIN: Final = "-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE: Final = "-----BEGIN PGP SIGNATURE-----"
_END: Final = "-----END PGP SIGNATURE-----"
_ARMOR: Final = "-----"
#: The only header that a clear-signed text may have. Source: RFC 9580 section 7.
_HASH: Final = re.compile(r"Hash: [A-Za-z0-9, -]{1,80}")


class PackageFile(NamedTuple):
    """A file of a source package."""

    name: str
    integrity: Integrity


class SourcePackage(NamedTuple):
    """What a .dsc says: name and version of the package, and its files, sorted by name."""

    name: str
    version: str
    files: tuple[PackageFile, ...]

    @property
    def dsc_name(self) -> str:
        """The usual file name of the .dsc, which has no epoch. Source: Policy 5.6.12, "epoch"."""
        return f"{self.name}_{self.version.partition(':')[2] or self.version}.dsc"


def parse_dsc(content: bytes, name: str) -> SourcePackage:
    """Return what a .dsc says; its signature is not verified.

    Args:
        content: the whole file.
        name: of the file, for messages.

    Raises:
        SourcePackageError: it is not a .dsc, or does not pin each of its files by size and sha256.
        SignatureError: it has text that its signature does not cover.
        UnsafePathError: the name of a file is not a plain one.
    """
    try:
        fields = parse_paragraph(signed_text(content).strip(b"\n"))
        package = SourcePackage(
            _matching(_PACKAGE, fields, "source")[0], _matching(_VERSION, fields, "version")[0], _list_files(fields)
        )
    except ValueError as error:
        raise SourcePackageError(
            f"{escape_text(name)} is not a .dsc of a source package: {escape_text(str(error))}",
            hint="compare it with the .dsc of the archive that publishes the package",
        ) from error
    if any(one.name == package.dsc_name for one in package.files):
        raise SourcePackageError(
            f"{escape_text(package.dsc_name)} lists itself among its files",
            hint="compare it with the .dsc of the archive that publishes the package",
        )
    return package


def signed_text(content: bytes) -> bytes:
    """Return the text of a .dsc without its signature.

    Raises:
        SignatureError: there is text before or after the signed one, or more than one.
        ValueError: it is not UTF-8.
    """
    lines = content.decode("utf-8").rstrip("\n").split("\n")
    if not any(line.startswith(_ARMOR) for line in lines):
        return content
    if lines[0].rstrip() != _BEGIN or lines[-1].rstrip() != _END or "" not in lines:
        raise _uncovered("expected a clear-signed text from the first line to the last")
    start = lines.index("") + 1
    armor = [at for at, line in enumerate(lines) if line.startswith(_ARMOR)]
    if len(armor) != 3 or lines[armor[1]].rstrip() != _SIGNATURE or not start <= armor[1]:
        raise _uncovered("expected one clear-signed text with one signature")
    if other := next((line for line in lines[1 : start - 1] if not _HASH.fullmatch(line)), None):
        raise _uncovered(f"unexpected header '{escape_text(other[:60])}'")
    return "".join(f"{line.removeprefix('- ')}\n" for line in lines[start : armor[1]]).encode()


def require_covered(content: bytes, verified: bytes) -> None:
    """Check that the text that gpg verified is all that a .dsc says, apart from blanks at the ends of lines.

    Raises:
        SignatureError: it is not.
        ValueError: the .dsc is not UTF-8.
    """
    own, other = ([line.rstrip() for line in text.strip().split(b"\n")] for text in (signed_text(content), verified))
    if own != other:
        raise _uncovered("gpg read another text")


def _uncovered(reason: str) -> SignatureError:
    return SignatureError(
        f"the signature of the .dsc does not cover all of it: {reason}",
        hint="compare it with the .dsc of the archive that publishes the package",
    )


def _matching(pattern: re.Pattern[str], fields: dict[str, str], name: str) -> re.Match[str]:
    found = pattern.fullmatch(fields.get(name, ""))
    if found is None:
        raise ValueError(
            f"invalid {name.capitalize()} {fields[name][:60]!r}" if name in fields else f"no field {name.capitalize()}"
        )
    return found


def _list_files(fields: dict[str, str]) -> tuple[PackageFile, ...]:
    """Return the files that any list names; each must have a sha256, and the same size everywhere.

    dpkg-source reads all lists together.
    """
    sizes: dict[str, int] = {}
    digests: dict[str, str] = {}
    for key, length in _LISTS.items():
        for digest, size, name in _rows(fields.get(key, ""), length):
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"{name} has two sizes, {sizes[name]} and {size}")
            if key == _SHA256:
                digests[name] = digest
    if missing := sorted(sizes.keys() - digests):
        raise ValueError(f"{missing[0]} has no sha256 in Checksums-Sha256")
    if not 0 < len(sizes) <= MAX_FILES:
        raise ValueError(f"expected 1 to {MAX_FILES} files, got {len(sizes)}")
    return tuple(
        PackageFile(name, Integrity(size=sizes[name], digest=Digest.sha256(digests[name]))) for name in sorted(digests)
    )


def _rows(text: str, length: int) -> list[tuple[str, int, str]]:
    """Return digest, size and name of each line of a list."""
    rows: dict[str, tuple[str, int, str]] = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 3 or not re.fullmatch(rf"[0-9a-f]{{{length}}}", words[0]) or not _SIZE.fullmatch(words[1]):
            raise ValueError(f"expected a digest, a size and a file name, got {line.strip()[:60]!r}")
        digest, size, name = words
        if not _FILE.fullmatch(name):
            raise UnsafePathError(
                f"unsafe name of a file in a .dsc: {escape_text(name)[:100]!r}", hint="review the .dsc: do not use it"
            )
        if name in rows:
            raise ValueError(f"{name} is listed twice")
        rows[name] = digest, int(size), name
    return list(rows.values())
