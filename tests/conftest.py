"""Fixtures for all tests."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_lib.cache import Cache
from tests.origin import Origin, reply, serving
from tests.project import DODO, LIBRARY, TOOL, definition, written

# a job in the background of a shell ignores Ctrl-C, and so would every program that a test starts and interrupts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # the same under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _collected() -> None:
    """Unfreeze the garbage collector before each test: Hypothesis needs the referrers of frozen objects."""
    gc.unfreeze()


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Yield a server with two archives."""
    with serving({"/lib-1.0.tar": reply(LIBRARY), "/tool.tar": reply(TOOL)}) as one:
        yield one


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    """Return an empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def repository(tmp_path: Path, origin: Origin) -> Path:
    """Return a user's repository that fetches both, and repacks one, without toolchains."""
    fetches = definition("lib", f"{origin.url}/lib-1.0.tar", LIBRARY, "    artifact-name: lib.tar.zst\n")
    fetches += definition("tool", f"{origin.url}/tool.tar", TOOL)
    return written(tmp_path, {"dodo.py": DODO, "fetchdefs/fetch/all.yml": fetches})
