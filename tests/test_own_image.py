"""The image of this project (fetchdefs/image/fetch.yml), run by podman and read by skopeo and umoci.

`.ci/run` builds it with `doit image:fetch`, which needs a network. These tests use the image without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_lib.archive.compression import compress
from tasks_lib.progress import Silent
from tests.project import ROOT

ARCHIVE = ROOT / "build/artifacts/fetch/fetch.oci.tar"
#: Largest size of the image with compressed layers.
MOST = 80_000_000
#: What kernels need that have no cgroup v2 hierarchy of their own for podman, and its stores in a directory of the test.
PODMAN = """
mount -t tmpfs none /sys/fs/cgroup
top=$1 && shift
exec podman --root "$top/root" --runroot "$top/run" --tmpdir "$top/tmp" --storage-driver vfs --cgroup-manager cgroupfs \
    run --rm --network none --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"
"""
#: Runs in the container: the promises of docs/image.md.
SESSION = """
set -e
fetch-content --help
doit-fetch --version
mkdir /tmp/served && cd /tmp/served
echo content > file.txt
python3 -m http.server --bind 127.0.0.1 8000 2> /dev/null &
server=$!
until python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8000))' 2> /dev/null; do sleep 0.1; done
fetch-content static-url --sha256 "$(sha256sum < file.txt | cut -d ' ' -f 1)" --size 8 http://127.0.0.1:8000/file.txt /tmp/fetched.txt
kill $server
cat /tmp/fetched.txt
for program in git gpg ssh zstd; do command -v $program; done
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.exists(), reason="run `doit image:fetch` first, with a network"),
]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if not shutil.which(name)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the OCI layout in the archive."""
    top = tmp_path_factory.mktemp("layout")
    run("tar", "-xf", ARCHIVE, "-C", top)
    return top


@pytest.fixture
def storage() -> Iterator[Path]:
    """Return a directory for containers; podman accepts no path of more than 50 characters."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@needs("podman", "unshare")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_programs_run(layout: Path, storage: Path) -> None:
    """Without a network, both programs run in a container, and `static-url` downloads from a server in it."""
    words: list[str | Path] = ["unshare", "--mount", "sh", "-ec", PODMAN, "podman", storage, f"oci:{layout}:latest"]
    said = run(*words, "sh", "-c", SESSION).splitlines()
    assert said[0].startswith("usage: fetch-content")
    assert any(line.startswith("doit-fetch 0.") for line in said)
    assert said[-5:] == ["content", "/usr/bin/git", "/usr/bin/gpg", "/usr/bin/ssh", "/usr/bin/zstd"]


@needs("skopeo")
def test_skopeo_reads_it(layout: Path) -> None:
    """Skopeo finds the digest in the archive and in the layout, and the configuration."""
    found = json.loads(run("skopeo", "inspect", f"oci-archive:{ARCHIVE}"))
    assert found["Digest"] == json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    assert (found["Os"], found["Architecture"], len(found["Layers"])) == ("linux", "amd64", 2)
    assert found["Labels"]["org.opencontainers.image.title"] == "doit-fetch"


@needs("umoci")
def test_umoci_unpacks_it(layout: Path, storage: Path) -> None:
    """The root file system has modes and owners of Debian, and nothing of the machine that made it."""
    run("umoci", "unpack", "--rootless", "--image", f"{layout}:latest", storage / "bundle")
    root = storage / "bundle/rootfs"
    for name, mode in {"": 0o755, "tmp": 0o1777, "usr/bin/passwd": 0o4755, "usr/local/bin/doit-fetch": 0o755}.items():
        assert (root / name).stat().st_mode & 0o7777 == mode, name
    assert sorted(path.name for path in (root / "etc/apt").glob("sources.list*")) in ([], ["sources.list.d"])
    assert not [path for name in ("var/log", "var/cache", "dev") for path in (root / name).rglob("*") if path.is_file()]
    copies = {path.parent.name for path in (root / "usr/share/doc").glob("*/*")}
    assert {"git", "python3"} <= copies


def test_size(layout: Path) -> None:
    """With layers compressed as `doit export oci` does, the image is small enough to be pulled often."""
    written: list[int] = []
    for blob in layout.glob("blobs/sha256/*"):
        with blob.open("rb") as file:
            compress(
                file,
                "zstd",
                size=blob.stat().st_size,
                write=lambda piece: written.append(len(piece)),
                progress=Silent(),
            )
    assert 0 < sum(written) <= MOST
