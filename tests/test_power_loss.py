"""After a power loss: what was not synced is short or missing, and nothing vouches for it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.test_fire import TREE, Farm, planted, root_only
from tests.test_journeys import definition, doit, ran


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return planted(tmp_path)


@root_only
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_no_stamp_outlives_a_boot(farm: Farm, tmp_path: Path) -> None:
    """The answer of a bare run is believed until the machine starts again; then every task is asked."""
    farm.succeed()
    assert ran(farm.doit()) == []
    with closing(sqlite3.connect(farm.cache / "doit.db")) as database:
        database.execute("update tasks set data='{}'")  # whoever asks the database runs everything
        database.commit()

    def booted(identity: str) -> list[str]:
        (tmp_path / "boot_id").write_text(identity)
        script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
        return ran(farm.doit(before=("unshare", "-m", "sh", "-c", script, str(tmp_path / "boot_id"))))

    assert booted(Path("/proc/sys/kernel/random/boot_id").read_text()) == []
    assert booted("another\n")


@pytest.mark.parametrize("name", ["lib/lib.h", "lib/big", "big.bin"])
@pytest.mark.parametrize("how", ["short", "gone"])
def test_what_is_torn_is_delivered_again(farm: Farm, name: str, how: str) -> None:
    """A short or missing file, extracted or placed as it is, is noticed by the next run."""
    farm.succeed()
    path = farm.top / "build/kit/fetches" / name
    right = path.read_bytes()
    if how == "short":
        os.truncate(path, 0)
    else:
        path.unlink()
    farm.succeed()
    assert path.read_bytes() == right


@pytest.mark.parametrize("task", ["extract:kit/lib", ""])
def test_no_command_works_on_a_torn_tree(farm: Farm, task: str, tmp_path: Path) -> None:
    """A tree that is torn before a command has worked in it is made again; afterwards it is the command's."""
    toolchain = farm.top / "fetchdefs/toolchain"
    (toolchain / "make.sh").write_text('#!/bin/sh\ncat lib/lib.h tool > "$UPLOAD_DIR/out"\n: > lib/lib.h\n')
    (toolchain / "make.sh").chmod(0o755)
    (tmp_path / "tool").write_bytes(b"tool")
    (farm.top / "fetchdefs/fetch/tool.yml").write_text(definition("tool", f"file://{tmp_path}/tool", b"tool"))
    (toolchain / "a.yml").write_text(
        "kit:\n  description: k\n  fetches: {fetch: [lib, {artifact: tool, extract: false}]}\n"
        "  run: {script: make.sh, toolchain-artifact: out}\n"
    )
    torn = farm.top / "build/kit/fetches/lib/lib.h"
    ran(doit(farm.top, *([task] if task else [])))
    if task:
        os.truncate(torn, 0)
        assert task in ran(doit(farm.top))
    (made,) = farm.cache.glob("artifacts/kit/*/out")
    assert made.read_bytes() == TREE["lib/lib.h"] + b"tool"
    assert torn.read_bytes() == b""  # as the command left it
    assert ran(doit(farm.top)) == []
