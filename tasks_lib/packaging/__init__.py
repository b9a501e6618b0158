"""Programs of this package as one file, for a machine that has only a Python; the command line for building it."""

from __future__ import annotations

import argparse
import re
import sys


def parse_versions(text: str) -> list[tuple[int, int]]:
    """Parse a list such as `3.11,3.13`; argparse reports the error."""
    found = [re.fullmatch(r"3\.(\d{1,3})", one.strip()) for one in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"invalid list of versions {text!r}: expected for example 3.11,3.13")
    return sorted({(3, int(one[1])) for one in found if one})


def add_arguments(parser: argparse.ArgumentParser, destination: str) -> None:
    """Add the arguments of a subcommand that builds a file; its path becomes the attribute `destination`."""
    parser.add_argument(
        "--python",
        type=parse_versions,
        default=[sys.version_info[:2]],
        metavar="VERSIONS",
        help="versions that will run the file, for example 3.11,3.13 (default: the running one)",
    )
    parser.add_argument(destination, metavar="OUT", help="file to create")
