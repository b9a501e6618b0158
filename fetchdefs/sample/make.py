"""Write the sample's archives and its Debian repository, byte for byte: `python fetchdefs/sample/make.py [DIR]`.

With `--sign`, also make a new key and sign the repository with it; then put the fingerprint into the definition, and run
`doit update greeter-packages`. The secret key is not kept.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LIBRARY = {
    "libgreet-1.0/greet.h": "#ifndef GREET_H\n#define GREET_H\nvoid greet(const char *whom);\n#endif\n",
    "libgreet-1.0/greet.c": (
        '#include "greet.h"\n#include <stdio.h>\n\nvoid greet(const char *whom)\n{\n    printf("Hello, %s!\\n", whom);\n}\n'
    ),
}
PROGRAM = {
    "greeter-2.1/main.c": '#include <greet.h>\n\nint main(void)\n{\n    greet("the origin is down");\n    return 0;\n}\n',
}
#: Debian packages: fields and files. `greeter` needs both others.
PACKAGES = (
    (
        "Package: greeter\nVersion: 2.1-1\nArchitecture: amd64\nDepends: libgreet1 (>= 1.0), greeter-data\n",
        {"usr/share/doc/greeter/README": "The program greeter.\n"},
    ),
    (
        "Package: greeter-data\nSource: greeter\nVersion: 2.1-1\nArchitecture: all\n",
        {"usr/share/greeter/words": "the origin is down\n"},
    ),
    (
        "Package: libgreet1\nSource: libgreet\nVersion: 1:1.0-3\nArchitecture: amd64\n",
        {"usr/share/doc/libgreet1/README": "The library libgreet.\n"},
    ),
)
#: 2000-01-01T00:00:00Z
TIME = 946_684_800


def library() -> bytes:
    """Return the library as a tar.bz2; bzip2's output has not changed since version 1.0."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name, text in LIBRARY.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(text), TIME, 0o644
            made.addfile(member, io.BytesIO(text.encode()))
    return bz2.compress(buffer.getvalue(), 9)


def program() -> bytes:
    """Return the program as a zip, stored, so that no version of zlib can change a byte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for name, text in PROGRAM.items():
            member = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o100644 << 16
            made.writestr(member, text)
    return buffer.getvalue()


def tar(files: dict[str, str]) -> bytes:
    """Return a tar with directories, owned by root."""
    parents = {name[:at] for name in files for at, letter in enumerate(name) if letter == "/"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name in sorted({".", *(f"./{one}" for one in (*parents, *files))}):
            member = tarfile.TarInfo(name)
            member.mtime, member.mode, member.uname, member.gname = TIME, 0o755, "root", "root"
            member.type = tarfile.DIRTYPE
            text = files.get(name.removeprefix("./"))
            if text is not None:
                member.type, member.size, member.mode = tarfile.REGTYPE, len(text), 0o644
            made.addfile(member, io.BytesIO((text or "").encode()))
    return buffer.getvalue()


def package(control: str, files: dict[str, str]) -> bytes:
    """Return a Debian package, not compressed, so that no library can change a byte. Source: deb(5)."""
    parts = {"debian-binary": b"2.0\n", "control.tar": tar({"control": control}), "data.tar": tar(files)}
    out = b"!<arch>\n"
    for name, content in parts.items():
        out += f"{name:16}{TIME:<12}{0:<6}{0:<6}{'100644':8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def repository() -> dict[str, bytes]:
    """Return the files of the Debian repository, with the text of its Release file."""
    files, paragraphs = {}, []
    for fields, content in PACKAGES:
        known = dict(line.split(": ", 1) for line in fields.splitlines())
        name, version = known["Package"], known["Version"].rpartition(":")[2]
        control = f"{fields}Maintainer: The sample <sample@example.org>\nDescription: part of the sample\n"
        deb = package(control, content)
        path = f"pool/main/{name}_{version}_{known['Architecture']}.deb"
        files[path] = deb
        paragraphs.append(f"{control}Filename: {path}\nSize: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n")
    index = "\n".join(paragraphs).encode()
    files["dists/stable/main/binary-amd64/Packages"] = index
    text = (
        "Origin: sample\nSuite: stable\nCodename: sample\nDate: Sat, 01 Jan 2000 00:00:00 UTC\nArchitectures: amd64\n"
    )
    text += "Components: main\nSHA256:\n"
    text += f" {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-amd64/Packages\n"
    return {**files, "dists/stable/Release": text.encode()}


def sign(text: bytes) -> tuple[bytes, bytes]:
    """Return a signed text and the public key, which is new."""
    with tempfile.TemporaryDirectory() as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--passphrase", ""]
        user = "the sample <sample@example.org>"
        subprocess.run([*gpg, "--quick-gen-key", user, "ed25519", "sign", "never"], check=True)
        signed = subprocess.run([*gpg, "--clearsign"], input=text, stdout=subprocess.PIPE, check=True).stdout
        key = subprocess.run([*gpg, "--armor", "--export"], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    return signed, key


def main(words: list[str]) -> None:
    """Write the files."""
    directory = next((Path(word) for word in words if word != "--sign"), Path(__file__).parent)
    files = {f"debian/{path}": content for path, content in repository().items()}
    if "--sign" in words:
        files["debian/dists/stable/InRelease"], files["debian/key.asc"] = sign(files["debian/dists/stable/Release"])
    files |= {"libgreet-1.0.tar.bz2": library(), "greeter-2.1.zip": program()}
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1:])
