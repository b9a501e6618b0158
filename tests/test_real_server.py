"""Slow journeys on a real nginx with real archives, made here or taken from $REAL_ARCHIVES (a directory)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from tests.archives import Member, tar
from tests.project import DODO, definition, doit, ran, written

pytestmark = pytest.mark.slow
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@dataclass
class Server:
    """A running nginx; `log` has one line a request."""

    root: Path
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Server]:
    if NGINX is None:
        pytest.skip("nginx is not installed")
    root = tmp_path / "served"
    root.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tmp_path.chmod(0o755)
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; user root; events {{}}\n"
        f"http {{ log_format one '$request_method $uri $status'; access_log {tmp_path}/access.log one;\n"
        f"client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p; fastcgi_temp_path {tmp_path}/f;\n"
        f"uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; }} }}\n"
    )
    process = subprocess.Popen([NGINX, "-c", str(conf), "-e", str(tmp_path / "error.log")])
    server = Server(root, f"http://127.0.0.1:{port}", tmp_path / "access.log", process)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    try:
        yield server
    finally:
        server.stop()


def repository(tmp_path: Path, fetches: str, toolchains: str = "", script: str = "") -> Path:
    files = {
        "dodo.py": DODO,
        "fetchdefs/fetch/all.yml": fetches,
        "fetchdefs/toolchain/all.yml": toolchains,
        "fetchdefs/toolchain/build.sh": script,
    }
    return written(tmp_path / "repository", files)


def test_newer_versions_in_a_listing(nginx: Server, tmp_path: Path) -> None:
    """The listing that nginx writes has the newer version, also behind a name that it shortens, and is asked once."""
    long = "a-name-that-is-so-long-that-nginx-shortens-it-in-its-listing"
    for name in (
        "hello-1.9.0.tar.gz",
        "hello-1.10.0.tar.gz",
        "hello-1.10.0-rc1.tar.gz",
        f"{long}-1.0.tgz",
        f"{long}-1.1.tgz",
    ):
        (nginx.root / name).write_bytes(b"x")
    (nginx.root / "sub dir & more").mkdir()
    fetches = "".join(
        definition(name, f"{nginx.url}/{file}", b"x")
        for name, file in (("hello", "hello-1.9.0.tar.gz"), ("long", f"{long}-1.0.tgz"))
    )
    top = written(tmp_path / "top", {"dodo.py": DODO, "fetchdefs/fetch/all.yml": fetches})
    done = doit(top, "outdated", "--json")
    assert done.returncode == 1, done.stdout
    assert {row["name"]: row["newest"] for row in json.loads(done.stdout)} == {"hello": "1.10.0", "long": "1.1"}
    assert nginx.asked() == ["GET / 200"]


def test_cold_noop_lost_database_and_dead_server(nginx: Server, tmp_path: Path) -> None:
    """Cold, then nothing; without doit's database no request; with nginx stopped everything cached still works."""
    fetches = ""
    for number in range(8):
        content = tar([Member(f"p{number}/f{n}", bytes([number, n]) * 40_000) for n in range(20)])
        (nginx.root / f"p{number}.tar").write_bytes(content)
        repack = f"    artifact-name: p{number}.tar.zst\n    strip-components: 1\n    add-prefix: q{number}/\n"
        fetches += definition(f"p{number}", f"{nginx.url}/p{number}.tar", content, repack)
    names = ", ".join(f"p{number}" for number in range(8))
    here = repository(tmp_path, fetches, f"all:\n  description: all\n  fetches: {{fetch: [{names}]}}\n")
    assert len(ran(doit(here, "-n", "4"))) == 25
    assert ran(doit(here)) == []
    (here / "cache/doit.db").unlink()
    doit(here)
    assert len(nginx.asked()) == 8
    nginx.stop()
    assert ran(doit(here)) == []
    shutil.rmtree(here / "build")
    assert len(ran(doit(here))) == 17  # eight links to artifacts, eight extractions, and the toolchain
    assert (here / "build/all/fetches/q7/f19").stat().st_size == 80_000


BUILD = """#!/bin/sh
# builds mpc against gmp and mpfr, all three from their fetched sources
set -eu
src=$MOZ_FETCHES_DIR
out=$PWD/../out
rm -rf "$out"
build() {
    (cd "$src/$1" && touch aclocal.m4 && find . -name 'configure' -o -name 'Makefile.in' -o -name 'config*.in' | xargs touch &&
        ./configure --prefix="$out" --disable-shared --enable-static --with-gmp="$out" --with-mpfr="$out" &&
        make -j2 MAKEINFO=true && make install MAKEINFO=true) >&2
}
# Debian's repacked GMP comes without its manual, whose directory configure wants to see
test -d "$src/gmp/doc" || { mkdir "$src/gmp/doc" && printf 'all install:\\n' >"$src/gmp/doc/Makefile.in"; }
(cd "$src/gmp" && find . -name aclocal.m4 | xargs touch && find . -name configure -o -name Makefile.in -o -name 'config*.in' | xargs touch &&
    ./configure --prefix="$out" --disable-shared --enable-static && make -j2 MAKEINFO=true && make install MAKEINFO=true) >&2
build mpfr
build mpc
tar -C "$out" -cf "$UPLOAD_DIR/mpc.tar" lib include
"""


@pytest.mark.timeout(1800)
def test_mpc_is_built_from_real_archives(nginx: Server, tmp_path: Path) -> None:
    """A real mpc is built against fetched gmp and mpfr, and a second machine takes it from the cache."""
    archives = {
        path.name.partition("-")[0]: path
        for path in Path(os.environ.get("REAL_ARCHIVES", "/nonexistent")).glob("*.tar.*")
    }
    if not {"gmp", "mpfr", "mpc"} <= archives.keys() or not shutil.which("cc") or not shutil.which("m4"):
        pytest.skip("needs cc, m4 and REAL_ARCHIVES=DIR with gmp, mpfr and mpc")
    fetches = ""
    for name, path in archives.items():
        shutil.copy(path, nginx.root / path.name)
        repack = f"    artifact-name: {name}.tar.zst\n    strip-components: 1\n    add-prefix: {name}/\n"
        fetches += definition(name, f"{nginx.url}/{path.name}", path.read_bytes(), repack)
    toolchain = (
        "mpc:\n  description: mpc\n  fetches: {fetch: [gmp, mpfr, mpc]}\n"
        "  run:\n    script: build.sh\n    toolchain-artifact: mpc.tar\n"
    )
    here = repository(tmp_path, fetches, toolchain, BUILD)
    done = doit(here, "-n", "4")
    assert "toolchain:mpc" in ran(done)
    made = here / "build/mpc/artifacts/mpc.tar"
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    assert ran(doit(here)) == []
    nginx.stop()
    shutil.rmtree(here / "build")
    (here / "cache/doit.db").unlink()
    assert "toolchain:mpc" in ran(doit(here))
    assert not made.exists()
    assert (here / f"cache/v1/blobs/sha256/{digest[:2]}/{digest}").exists()


def test_repack_is_the_same_for_everyone(tmp_path: Path) -> None:
    """Another umask and time zone give one artifact, which GNU tar and bsdtar read alike."""
    root = tmp_path / "root"
    (root / "p/d").mkdir(parents=True)
    for number in range(30):
        (root / f"p/d/f{number}").write_bytes(bytes([number]) * 1000)
    subprocess.run(["tar", "-C", root, "-czf", tmp_path / "p.tar.gz", "p"], check=True)
    content = (tmp_path / "p.tar.gz").read_bytes()
    repack = "    artifact-name: p.tar.zst\n    strip-components: 1\n    add-prefix: q/\n"
    made = set()
    for mask, zone in ((0o022, "UTC"), (0o077, "Asia/Tokyo"), (0o000, "America/Lima")):
        here = repository(tmp_path / zone, definition("p", f"file://{tmp_path}/p.tar.gz", content, repack))
        before = os.umask(mask)
        try:
            ran(doit(here, TZ=zone))
        finally:
            os.umask(before)
        made.add(next(here.glob("cache/artifacts/p/*/p.tar.zst")).read_bytes())
    assert len(made) == 1
    plain = zstandard.ZstdDecompressor().decompress(made.pop())
    listed = [
        subprocess.run([reader, "-tf", "-"], input=plain, stdout=subprocess.PIPE, check=True).stdout
        for reader in ("tar", "bsdtar")
        if shutil.which(reader)
    ]
    assert len(set(listed)) == 1
    assert len(listed[0].splitlines()) == 32
