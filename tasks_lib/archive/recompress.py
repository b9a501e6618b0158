"""A tar in any compression -> the very same tar in zstd: no header is touched.

The tar must have been read, and accepted, before: nothing is judged here but the compression.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import BinaryIO, Final

import zstandard

from tasks_lib.archive.codecs import beside, decoded
from tasks_lib.archive.entries import Limits
from tasks_lib.progress import Progress

#: zstd's default level, and its multi-threaded writer, whose bytes do not depend on the number of threads.
#: Source: zstd.h, ZSTD_c_nbWorkers.
_LEVEL: Final = 3
_WORKERS: Final = 2


def recompress(
    source: BinaryIO, *, format: str, limits: Limits, write: Callable[[bytes], object], progress: Progress
) -> None:
    """Write the tar in `source`, unchanged, as one zstd frame with a checksum through `write`.

    Raises:
        ArchiveError: the compression is damaged or too expensive.
        CancelledError: the run was asked to stop.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, write_checksum=True, threads=_WORKERS)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with contextlib.closing(beside(decoded(source, format, limits))) as chunks:
        for chunk in chunks:
            write(compressor.compress(chunk))
            progress.advance(len(chunk))
            progress.check()
    write(compressor.flush())
