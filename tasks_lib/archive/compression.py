"""Compression of a whole file, for programs that read it: the same bytes with the same version of the library."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import zstandard

from tasks_lib.progress import Progress

#: Levels that are slower than the default ones: such a file is written once and read often.
_ZSTD_LEVEL: Final = 10
_GZIP_LEVEL: Final = 9
#: With one or more workers, zstd writes the same bytes for any number of workers. Source: zstd.h, ZSTD_c_nbWorkers.
_WORKERS: Final = 2
#: The largest window, with the header and the trailer of gzip, whose time and name are empty.
#: Source: zlib manual, deflateInit2.
_GZIP_WINDOW: Final = 31
_CHUNK: Final = 1 << 20


def describe_compression(compression: str) -> str:
    """Return everything that determines the compressed bytes of a file, for a recipe key.

    Raises:
        KeyError: the compression is not "zstd" or "gzip".
    """
    return {
        "zstd": f"zstd {_ZSTD_LEVEL} {'.'.join(map(str, zstandard.ZSTD_VERSION))}",
        "gzip": f"gzip {_GZIP_LEVEL} {zlib.ZLIB_RUNTIME_VERSION}",
    }[compression]


def compress(
    source: BinaryIO, compression: str, *, size: int, write: Callable[[bytes], object], progress: Progress
) -> None:
    """Write `source`, of `size` bytes, through `write`: as "zstd" or "gzip".

    Raises:
        OSError: `source` cannot be read.
        Exception: any exception raised by `write` or `progress`.
    """
    compressor = _open(compression, size)
    while chunk := source.read(_CHUNK):
        write(compressor.compress(chunk))
        progress.advance(len(chunk))
        progress.check()
    write(compressor.flush())


def _open(compression: str, size: int) -> Any:
    if compression == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _ZSTD_LEVEL, source_size=size, write_checksum=True, threads=_WORKERS
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=size)
