"""Write the sample's two archives, byte for byte: `python fetchdefs/sample/make.py [DIR]`."""

from __future__ import annotations

import bz2
import io
import sys
import tarfile
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


if __name__ == "__main__":
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    (directory / "libgreet-1.0.tar.bz2").write_bytes(library())
    (directory / "greeter-2.1.zip").write_bytes(program())
