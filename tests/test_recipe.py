"""Recipe keys: everything that shapes an output, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tasks_lib import recipe
from tasks_lib.definitions import Debian, DebianSource, Fetch, Git, Hg, StaticUrl, Toolchain, ToolchainRun
from tasks_lib.digest import Digest, Integrity
from tasks_lib.incremental.definition_files import load

DEFINITIONS = load(Path(__file__).parent.parent / "fetchdefs")
#: Source: Taskgraph run on the same definitions.
GOLDEN = {
    "binutils-2.31.1": "f65a76c6dd78a1a22fcfcc1742eaf4c12d76f7aae97abac2e7d76f6bcc45ee19",
    "binutils-2.41": "c31a5c43b60da2a74f4717dc5b256072fdef1ac0e5950d272d692cd95bb513b4",
    "gcc-8.5.0": "18bac5924322f22c653335210824db67697d2162f5f19448cd3023192b54ab16",
    "gcc-9.5.0": "19179c48b2a1fc8b3b295d49961de2175e4cd5e42337d4072a751a868d458918",
    "gcc-11.4.0": "3c010520e3163758b832a8803c5fd78d9162354c059372fef83b238de58a2a8b",
    "gcc-14.2.0": "e3fdf3243c208985f8604ad82614727525ea96e832babd482fde3ae6bdfb59ed",
    "gmp-6.1.0": "d4bb010795eed9b9d9f8daa8de9803a39b31ce8cd1cf9e0b9a1d993edea86bf0",
    "isl-0.16.1": "f99630057b64546f679811f0a069411e6b53b305c4db1e6a58117196378fc38c",
    "mpc-1.0.3": "b62030d7b514ca0dd86d78bd4185ebcebec6605e14e9239b8a3c56db3d19dd7e",
    "mpfr-3.1.4": "2038a2d66c06e92ef43cf746c352aad9a947bb7658dc0431ad3217234cd67bd1",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_taskgraph_digest(name: str) -> None:
    """The cache digest is the one that Taskgraph computes."""
    assert recipe.taskgraph_digest(DEFINITIONS.fetch(name)) == GOLDEN[name]


def made(source: StaticUrl | Git) -> Fetch:
    return Fetch(name="x", description="d", source=source, file="f", line=1)


def test_taskgraph_digest_of_others() -> None:
    """A plain download and git commits, with and without .git, have Taskgraph's digests too."""
    sha = "e24ade3e928f7253aa8c14aa44726d1edf3f98643f87c9d72ec1df44b26be8f5"
    nasm = StaticUrl(
        url="https://h/nasm-2.14.02.tar.xz",
        integrity=Integrity(size=827620, digest=Digest.sha256(sha)),
        artifact_name="nasm-2.14.02.tar.xz",
    )
    assert recipe.taskgraph_digest(made(nasm)) == "0080bba067990f6dcb6a6603734a361491b96fc5ee53a0611a7e2aee67b6a088"
    sccache = Git(
        repo="https://h/sccache",
        revision="77f67d73445a383ffd8af095fb7a8e41f258e80f",
        path_prefix="sccache",
        artifact_name="sccache.tar.zst",
    )
    assert recipe.taskgraph_digest(made(sccache)) == "5c363a04c0d7ddb91921ea562bc299aabdb76ff3bdb8149e98901bde60749ba1"
    rust = replace(
        sccache,
        revision="ab1527f1d6560168f9fd36fa8cd7ba677c1d36ad",
        path_prefix="rust",
        artifact_name="rust.tar.zst",
        dot_git="kept",
    )
    assert recipe.taskgraph_digest(made(rust)) == "5fdadb460af16ed35218e769bcff28497ed54e232b91b12ba684c5a4f5f90909"


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("gmp-5.1.3", "909cf4b4aceffae06e182bc5c5995b917f1047baf40da0da8bfa4e636b74b6f4"),
        ("gcc-6.4.0", "21fc85b098fa95b905c637acf35fa01d43cd60cd2de85a7ecafd541a0fdea249"),
    ],
)
def test_figures_of_2018(name: str, golden: str) -> None:
    """The first generation of Taskgraph hashed digest, size and name: our figures give its values."""
    source = DEFINITIONS.fetch(name).source
    assert isinstance(source, StaticUrl)
    words = [source.integrity.digest.hex, str(source.integrity.size), source.artifact_name]
    assert hashlib.sha256("\n".join(words).encode()).hexdigest() == golden


@pytest.mark.parametrize("kind", [Fetch, StaticUrl, Git, Hg, Debian, DebianSource])
def test_every_field_is_classified(kind: type) -> None:
    """A new field is identity or locator, never forgotten."""
    for one in msgspec.structs.fields(kind):
        assert (one.name in recipe.IDENTITY_FIELDS) != (one.name in recipe.LOCATOR_FIELDS), one.name


def test_locators_do_not_change_a_key() -> None:
    """Another mirror, URL or header keeps the key; another strip, prefix or name changes it."""
    source = DEFINITIONS.fetch("gmp-6.1.0").source
    assert isinstance(source, StaticUrl)
    key = recipe.repack_key(source, version="1")
    moved = replace(source, url="https://other/", mirrors=("https://m/",), headers=(("A", "b"),), gpg_signature=None)
    assert recipe.repack_key(moved, version="1") == key
    others = [
        replace(source, strip_components=2),
        replace(source, add_prefix="x"),
        replace(source, artifact_name="y.tar.zst"),
        replace(source, shape=(("duplicates", "last"),)),
        replace(source, shape=(("control_names", "keep"),)),
        replace(source, shape=(("zip_prefix", "ignore"),)),
    ]
    assert (
        len({recipe.repack_key(other, version="1") for other in others} | {key, recipe.repack_key(source, version="2")})
        == 8
    )


def test_what_shapes_a_tree_is_in_its_keys() -> None:
    """Options under `fetch:` change the key of an extraction and of a commit; those under `archive:` change none."""
    source = DEFINITIONS.fetch("gmp-6.1.0").source
    assert isinstance(source, StaticUrl)
    commit = Git(repo="https://h/r", revision="0" * 40, path_prefix="r", artifact_name="r.tar.zst")

    def keys(**more: Any) -> tuple[str, str]:
        extracted = recipe.extract_key("k", dest="", version=1, shape=recipe.option_words(replace(source, **more)))
        return extracted, recipe.repository_key(replace(commit, **more), version="1")

    plain = keys()
    assert plain[0] == recipe.extract_key("k", dest="", version=1)
    assert keys(archive=(("trailing", "ignore"), ("end", "missing"))) == plain
    assert not set(keys(shape=(("control_names", "keep"),))) & set(plain)


def test_what_is_in_the_key_of_a_toolchain() -> None:
    """Platform, host identity, network, passed variables, environment and inputs; golden for TOOLCHAIN_VERSION."""
    run = ToolchainRun(command=("make",), pass_env=("CC",))
    toolchain = Toolchain(name="t", description="d", fetches=(), run=run, file="f", line=1)
    host = recipe.Host(platform="linux-x86_64-glibc", variables={"CC": "1"})

    def key(one: Toolchain = toolchain, **more: Any) -> str:
        return recipe.toolchain_key(one, **{"inputs": {}, "files": {}, "env": {}, "host": host, **more})

    assert recipe.TOOLCHAIN_VERSION == 2
    assert key() == "ede2330947d06792b29e0ed627d8a429287920d5d53563ff9d6b98a0d7ff2d2d"
    others = [
        key(inputs={"before toolchain:x": "k"}),
        key(env={"A": "b"}),
        key(replace(toolchain, root="/r")),
        key(replace(toolchain, run=replace(run, network="off"))),
        *(
            key(host=replace(host, **{name: value}))
            for name, value in (
                ("platform", "linux-i686-glibc"),
                ("identity", "image"),
                ("passed", ("CFLAGS",)),
                ("variables", {"CC": "2"}),
                ("variables", {}),
            )
        ),
    ]
    assert len({key(), *others}) == len(others) + 1
    assert key(host=replace(host, network="off")) == key(replace(toolchain, run=replace(run, network="off")))
    assert key(host=replace(host, variables={"CC": "1", "X": "2"})) == key()
    assert key(replace(toolchain, name="x", description="x", file="x", line=2)) == key()


def test_a_configuration_of_an_earlier_version() -> None:
    """A line without the fields of this version is read; what it says now is read as it was written."""
    line = '{"writer_version": "1", "trees": "1", "limits": {}, "link_mode": "auto", "directory": "/d"}'
    earlier = recipe.Configuration.decode(line)
    assert earlier.host == recipe.Host()
    now = replace(earlier, host=recipe.Host(platform="p", passed=("A",), variables={"A": "1"}))
    assert recipe.Configuration.decode(now.encode()) == now


def test_keys_are_golden() -> None:
    """Keys change only with RECIPE_VERSION."""
    source = DEFINITIONS.fetch("gmp-6.1.0").source
    assert isinstance(source, StaticUrl)
    assert recipe.RECIPE_VERSION == 1
    assert recipe.fetch_key(source.integrity) == "b189e02d3d40e6e05ddce74d373e8fa2e90ce8747dae9d70d56d28605473156a"
    assert recipe.repack_key(source, version="1") == "b9405e7e52815bd26c890d43ee9aedf43454c9525aaa452fbf9d0f80e8558146"


def test_keys_of_a_source_package() -> None:
    """The pins and the name shape them, golden for SOURCE_PACKAGE_VERSION; URLs and signers do not."""
    source = DebianSource(url="https://h/x.dsc", digest=Digest.sha256("a" * 64), size=3, artifact_name="x.tar.zst")
    assert recipe.SOURCE_PACKAGE_VERSION == 1
    assert recipe.pinned_key(source) == "80fc32f1bf1509d562acb542127c76eebd40f78635c488a4ba29e4e34200693b"
    golden = "1446f70918d974db4df4d0750949577caa47c8188813bb52ff6d9add90d8f679"
    moved = replace(source, url="https://other/y.dsc", mirrors=("https://m/x.dsc",), signed_by=("A",), purl="pkg:deb/a")
    assert {recipe.source_package_key(one, version="1") for one in (source, moved)} == {golden}
    others = [
        replace(source, digest=Digest.sha256("b" * 64)),
        replace(source, size=-1),
        replace(source, artifact_name="y.tar.zst"),
        replace(source, form="tarball"),
    ]
    keys = {recipe.source_package_key(one, version="1") for one in others}
    assert len(keys | {golden, recipe.source_package_key(source, version="2")}) == 6


def test_verdicts_of_a_dsc_depend_on_the_policy() -> None:
    """Other signers or other key files are another verdict, in any order; without signers there is none."""
    source = DebianSource(url="u", digest=Digest.sha256("a" * 64), signed_by=("A", "B"), key_files=("k", "l"))
    keys = {name: Digest.sha256(digit * 64) for name, digit in (("k", "1"), ("l", "2"), ("m", "3"))}
    verdict = recipe.verdict_key(source, keys)
    assert recipe.verdict_key(replace(source, signed_by=("B", "A"), key_files=("l", "k")), keys) == verdict
    others = [replace(source, signed_by=("A",)), replace(source, key_files=("k", "m"))]
    assert len({verdict, "", *(recipe.verdict_key(one, keys) for one in others)}) == 4
    assert recipe.verdict_key(replace(source, signed_by=()), keys) == ""
