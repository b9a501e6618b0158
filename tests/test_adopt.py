"""`doit adopt`: downloads in eight syntaxes are found, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks_lib.adopt import find_downloads
from tasks_lib.adopt.declarations import find_in_cmake, find_in_dotslash, find_in_starlark, find_in_wrap
from tasks_lib.adopt.embedded_scripts import find_in_dockerfile, find_in_workflow
from tasks_lib.adopt.shell import find_in_script
from tests.origin import Origin, reply
from tests.project import definition, doit, written
from tests.test_program import program

SHA = "0123456789abcdef" * 4
COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: File -> its text. Each line with `#= pinned` or `#= unpinned` and URLs says what is expected before it.
REPOSITORY = {
    "get.sh": f"""#!/bin/sh
set -eu
VERSION=1.2
BASE=https://h.example/dl
# curl -LO https://comment.example/a.tgz
curl -fsSLO https://h.example/a-1.tgz
wget https://h.example/b.tgz
curl -sSL https://h.example/install.sh | sh
curl -o out.bin "https://h.example/v$VERSION/c.bin"
curl -fsSL "$BASE/d.tgz" | tar -xz
wget -qO- https://h.example/e.tgz | tar xz -C /opt
curl -L https://h.example/f > f.bin
curl --output g "https://h.example/g?x=1&y=2"
curl -LO https://h.example/pinned.tgz && echo "{SHA}  pinned.tgz" | sha256sum -c -
wget -O pinned2.tgz https://h.example/pinned2.tgz
echo "{SHA} *pinned2.tgz" > sums
sha256sum --check sums
bash -c "$(curl -fsSL https://h.example/oh-my.sh)"
bash <(curl -s https://h.example/codecov.sh)
sudo curl -fLo /usr/local/bin/tool \\
    --retry 3 \\
    https://h.example/tool
if ! curl -sfO https://h.example/cond; then exit 1; fi
for i in 1 2; do wget -q https://h.example/loop; done
echo "run: curl -O https://echo.example/x"
printf 'curl -O https://printf.example/x\\n'
curl -s https://api.example/status
curl -I -O https://head.example/x
curl -X POST -o r https://post.example/x
curl -d @f -o r https://data.example/x
curl -o /dev/null https://null.example/x
wget --spider https://spider.example/x
TAG=$(curl -s https://api.example/latest | jq -r .tag)
cat <<EOF
curl -O https://document.example/x
EOF
command -v curl
apt-get install -y curl wget
curl -fsSL https://h.example/two1 -o 1 https://h.example/two2 -o 2
(cd /tmp && wget --no-check-certificate https://h.example/sub.zip)
""",
    "no-extension": "#!/usr/bin/env bash\ncurl -O https://h.example/noext\n",
    "Dockerfile": f"""FROM debian
ARG VERSION=3
ENV URL=https://h.example/env.tgz OTHER=x
# ADD https://comment.example/x /
ADD https://h.example/add.tgz /opt/
ADD --checksum=sha256:{SHA} https://h.example/add-pinned.tgz /opt/
ADD ["https://h.example/json.tgz", "/opt/"]
COPY x /x
RUN apt-get update \\
 && curl -fsSLO https://h.example/run-$VERSION.tgz \\
    # a comment
 && tar xf run.tgz
RUN wget "$URL"
RUN --mount=type=cache,target=/c curl -L https://h.example/mount -o m \\
 && echo "{SHA}  m" | sha256sum -c
RUN <<EOF
wget https://h.example/heredoc
EOF
LABEL url=https://label.example/x
""",
    "docker/api.Dockerfile": "FROM x\nRUN curl -LO https://h.example/api\n",
    "WORKSPACE": f"""load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive", "http_file")
# http_archive(name = "c", url = "https://comment.example/x")
VERSION = "1.0"
http_archive(
    name = "one",
    url = "https://h.example/one.tgz",
)
http_archive(
    name = "two",
    sha256 = "{SHA}",
    urls = [
        "https://h.example/two.tgz",
        "https://mirror.example/two.tgz",
    ],
)
http_file(name = "three", urls = ["https://h.example/three-" + VERSION + ".bin"], sha256 = "")
http_archive(name = "four", url = "https://h.example/{{}}.zip".format(VERSION), integrity = "sha256-AAAA=")
""",
    "third_party/repos.bzl": """def deps():
    maybe(
        http_archive,
        name = "five",
        url = "https://h.example/%s.zip" % "5",
    )
    git_repository(name = "six", remote = "https://h.example/six.git", tag = "v1")
    native.new_local_repository(name = "x", path = "https://text.example/x")
""",
    "CMakeLists.txt": f"""project(x)
set(VER 2)
# FetchContent_Declare(c URL https://comment.example/x)
#[[ FetchContent_Declare(c URL https://comment.example/y) ]]
message("see https://message.example/z")
FetchContent_Declare(one URL https://h.example/cm-${{VER}}.tgz)
FetchContent_Declare(
  two
  URL https://h.example/cm-two.tgz
      https://mirror.example/cm-two.tgz
  URL_HASH SHA256={SHA}
)
FetchContent_Declare(three GIT_REPOSITORY https://h.example/three.git GIT_TAG v1.0)
FetchContent_Declare(four GIT_REPOSITORY https://h.example/four.git GIT_TAG {COMMIT})
FetchContent_Declare(five URL https://h.example/weak.tgz URL_MD5 0123456789abcdef0123456789abcdef)
file(DOWNLOAD https://h.example/file.bin ${{CMAKE_BINARY_DIR}}/f)
""",
    "cmake/ext.cmake": f"""ExternalProject_Add(lib
  URL "https://h.example/ext.tgz"
  CONFIGURE_COMMAND ""
)
externalproject_add(lib2 URL https://h.example/ext2.tgz URL_HASH SHA512={SHA}{SHA})
""",
    "subprojects/zlib.wrap": f"[wrap-file]\ndirectory = zlib-1\nsource_url = https://h.example/wrap.tgz\nsource_hash = {SHA}\npatch_url = https://h.example/patch.zip\n",
    "subprojects/git.wrap": "[wrap-git]\nurl = https://h.example/wrap.git\nrevision = head\n",
    "subprojects/pin.wrap": f"[wrap-git]\nurl = https://h.example/wrap-pin.git\nrevision = {COMMIT}\n",
    "bin/tool": f"""#!/usr/bin/env dotslash
// https://comment.example/x
{{
  "name": "tool",
  "platforms": {{
    "linux-x86_64": {{
      "size": 1, "hash": "sha256", "digest": "{SHA}", "path": "tool",
      "providers": [{{"url": "https://h.example/slash-linux"}}, {{"url": "https://mirror.example/slash-linux"}}],
    }},
    "macos-aarch64": {{
      "size": 1, "hash": "sha256", "digest": "", "path": "tool",
      "providers": [{{"type": "github-release", "repo": "o/r", "tag": "v1", "name": "slash-mac"}}],
    }},
  }},
}}
""",
    ".github/workflows/ci.yml": f"""on: push
env:
  BASE: https://h.example/gh
jobs:
  build:
    steps:
      - uses: actions/checkout@v4
      - name: see https://name.example/x
        run: curl -LO https://h.example/plain
      - run: |
          # wget https://comment.example/x
          wget $BASE/block.tgz
          curl -L "https://h.example/${{{{ matrix.os }}}}/m.tgz" -o m
          echo "{SHA}  m" | sha256sum -c -
      - shell: pwsh
        run: curl -O https://pwsh.example/x
      - run: >
          curl -O
          https://h.example/folded
""",
    "action.yml": "runs:\n  steps:\n    - shell: bash\n      run: curl -sSL https://h.example/action | bash\n",
    "README.md": "```sh\ncurl -LO https://readme.example/x\n```\nhttps://bare.example/y\n",
    "notes.txt": "curl -LO https://notes.example/x\n",
    "main.py": "os.system('curl -LO https://python.example/x')\n",
    "node_modules/x/get.sh": "curl -LO https://foreign.example/x\n",
}
#: What is found, by file: line, state and URL after https://h.example/.
EXPECTED = {
    "get.sh": [
        "6 unpinned a-1.tgz", "7 unpinned b.tgz", "8 unpinned install.sh", "9 unpinned v1.2/c.bin", "10 unpinned dl/d.tgz",
        "11 unpinned e.tgz", "12 unpinned f", "13 unpinned g?x=1&y=2", "14 pinned pinned.tgz", "15 pinned pinned2.tgz",
        "18 unpinned oh-my.sh", "19 unpinned codecov.sh", "22 unpinned tool", "23 unpinned cond", "24 unpinned loop",
        "39 unpinned two1", "39 unpinned two2", "40 unpinned sub.zip",
    ],
    "no-extension": ["2 unpinned noext"],
    "Dockerfile": [
        "5 unpinned add.tgz", "6 pinned add-pinned.tgz", "7 unpinned json.tgz", "10 unpinned run-3.tgz",
        "13 unpinned env.tgz", "14 pinned mount", "17 unpinned heredoc",
    ],
    "docker/api.Dockerfile": ["2 unpinned api"],
    "WORKSPACE": ["6 unpinned one.tgz", "12 pinned two.tgz", "16 unpinned three-1.0.bin", "17 pinned 1.0.zip"],
    "third_party/repos.bzl": ["5 unpinned 5.zip", "7 unpinned six.git"],
    "CMakeLists.txt": [
        "6 unpinned cm-2.tgz", "9 pinned cm-two.tgz", "13 unpinned three.git", "14 pinned four.git", "15 unpinned weak.tgz",
        "16 unpinned file.bin",
    ],
    "cmake/ext.cmake": ["2 unpinned ext.tgz", "5 pinned ext2.tgz"],
    "subprojects/zlib.wrap": ["3 pinned wrap.tgz", "5 unpinned patch.zip"],
    "subprojects/git.wrap": ["2 unpinned wrap.git"],
    "subprojects/pin.wrap": ["2 pinned wrap-pin.git"],
    "bin/tool": ["8 pinned slash-linux", "12 unpinned https://github.com/o/r/releases/download/v1/slash-mac"],
    ".github/workflows/ci.yml": [
        "9 unpinned plain", "12 unpinned gh/block.tgz", "13 pinned ${{ matrix.os }}/m.tgz", "19 unpinned folded",
    ],
    "action.yml": ["4 unpinned action"],
}  # fmt: skip


def found(top: Path) -> dict[str, list[str]]:
    """Return what is found, in the notation of EXPECTED."""
    result: dict[str, list[str]] = {}
    for path, one in find_downloads(top):
        state = "pinned" if one.pinned else "unpinned"
        line = f"{one.line} {state} {one.url.removeprefix('https://h.example/')}"
        result.setdefault(str(path.relative_to(top)), []).append(line)
    return result


@pytest.mark.parametrize("file", REPOSITORY)
def test_a_file(file: str, tmp_path: Path) -> None:
    """Every download of a file is found with its line and state, and nothing else: no comment, text or bare URL."""
    assert found(written(tmp_path, {file: REPOSITORY[file]})) == ({file: EXPECTED[file]} if file in EXPECTED else {})


def test_how_many(tmp_path: Path) -> None:
    """The table has the syntaxes of the contract and more than forty downloads; a walk finds all of them in order."""
    result = found(written(tmp_path, REPOSITORY))
    assert result == EXPECTED
    assert sum(map(len, result.values())) >= 40
    assert len({one.syntax for _, one in find_downloads(tmp_path)}) == 8


READERS = {
    "shell": lambda text: find_in_script(text, 1, {}),
    "dockerfile": find_in_dockerfile,
    "bazel": find_in_starlark,
    "cmake": find_in_cmake,
    "meson": find_in_wrap,
    "dotslash": find_in_dotslash,
    "github": find_in_workflow,
}
_WORDS = st.sampled_from(
    ["curl -O ", "wget ", "https://h/x", " ", "\n", '"', "'", "$(", ")", "`", "${", "}", "\\", "#", "<<E", "E", "|", "(",
     "[[", "]]", "FetchContent_Declare(", "URL ", "http_archive(", "url=", ",", "RUN ", "ADD ", "run: |\n  ", "- ", ": ",
     "&a ", "*a", "#!/usr/bin/env dotslash\n", "{", "[wrap-file]\n", "source_url = ", "/*", "*/", "\0", "\ud800", "é"]
)  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(_WORDS, max_size=40))
def test_any_text(reader: str, pieces: list[str]) -> None:
    """A reader accepts any text; what it finds has a line of that text."""
    text = "".join(pieces)
    for one in READERS[reader](text):
        assert 1 <= one.line <= text.count("\n") + 1
        assert one.url.startswith("https://")


#: Texts for which a careless reader takes quadratic or exponential time, or too much memory.
HOSTILE = {
    "quotes": "curl '" * 100_000,
    "double quotes": 'curl "' * 100_001,
    "substitutions": "$(" * 200_000,
    "here-documents": "<<E\n" * 100_000,
    "assignments": "A=$A$A\n" * 50_000 + "curl -O https://h/$A\n" * 1000,
    "doubling": "A = 'x' * 2\n" + "".join(f"A{n + 1} = A{n} + A{n}\n" for n in range(60)),
    "parentheses": "(" * 300_000,
    "comments": "#!/usr/bin/env dotslash\n" + "/*" * 300_000,
    "commas": "#!/usr/bin/env dotslash\n{" + ",      " * 100_000,
    "brackets": "[==[" * 100_000,
    "spaces": "[wrap-file]\nsource_url =" + " " * 900_000,
    "pairs": 'ENV A="' * 100_000,
    "continued": "RUN \\\n" * 100_000,
    "nested": "- " * 50_000,
    "aliases": "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*{'b' + str(n - 1) if n else 'a'}, *a]\n" for n in range(2000)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_texts(case: str) -> None:
    """Every reader ends soon: the timeout of the test is minutes, a quadratic reader needs hours."""
    for reader in READERS.values():
        reader(HOSTILE[case][: 1 << 20])


def test_files_that_are_not_read(tmp_path: Path) -> None:
    """Symlinks, pipes, large and binary files are left out; a path that cannot be read is an error."""
    written(
        tmp_path, {"real/get.sh": "curl -O https://h.example/x\n", "large.sh": "curl -O https://h.example/y\n" * 50_000}
    )
    (tmp_path / "link.sh").symlink_to(tmp_path / "real/get.sh")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.sh")
    (tmp_path / "binary.sh").write_bytes(b"curl -O https://h.example/z\0")
    assert found(tmp_path) == {"real/get.sh": ["1 unpinned x"]}
    with pytest.raises(OSError, match="No such file"):
        list(find_downloads(tmp_path / "missing"))


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """One line each, status 1 when something is not pinned; a repository needs no dodo.py and no definitions."""
    top = written(tmp_path, {name: REPOSITORY[name] for name in ("no-extension", "subprojects/pin.wrap", "README.md")})
    expected = [
        "no-extension:2: unpinned https://h.example/noext",
        "subprojects/pin.wrap:2: pinned https://h.example/wrap-pin.git",
    ]
    done = program(top, "adopt")
    assert (done.returncode, done.stdout.splitlines()) == (1, expected), done.stderr
    assert sorted(path.name for path in top.iterdir()) == ["README.md", "no-extension", "subprojects"]
    done = program(top / "subprojects", "adopt", ".", "../no-extension")
    assert done.stdout.splitlines() == ["pin.wrap:2: pinned https://h.example/wrap-pin.git", f"../{expected[0]}"]
    assert program(top, "adopt", "subprojects").returncode == 0
    done = program(top, "adopt", "missing")
    assert (done.returncode, done.stderr.splitlines()[-2:]) == (
        3, ["ERROR: cannot read missing: No such file or directory", "give a file or a directory"],
    )  # fmt: skip
    (log,) = json.loads(program(top, "adopt", "--sarif").stdout)["runs"]
    (result,) = log["results"]
    assert result["ruleId"] == "unpinned" and log["tool"]["driver"]["rules"][0]["id"] == "unpinned"
    assert result["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "no-extension"}, "region": {"startLine": 2}}}
    ]
    written(top, {"dodo.py": "def task_adopt():\n    return {'actions': ['echo mine'], 'verbosity': 2}\n"})
    assert "mine" in doit(top, "adopt").stdout


UNPINNED = {
    "get.sh": "curl -fsSLO {url}/data.zip\ncurl -fsSL {url}/tool | sh\nwget {url}/gone\nwget {url}/$UNKNOWN\nwget -O out {url}/tool\n",
    "Dockerfile": "ADD {url}/tool /opt/\n",
    "BUILD": 'http_archive(name = "x", url = "{url}/data.zip")\n',
    "CMakeLists.txt": "FetchContent_Declare(x URL {url}/data.zip)\n",
    "subprojects/x.wrap": "[wrap-file]\nsource_url = {url}/data.zip\npatch_url = {url}/tool\n",
}


@pytest.fixture
def unpinned(tmp_path: Path, origin: Origin) -> Path:
    """Return a repository with downloads that are not pinned."""
    origin.answers |= {"/data.zip": reply(b"data"), "/tool": reply(b"tool")}
    return written(tmp_path, {name: text.replace("{url}", origin.url) for name, text in UNPINNED.items()})


def test_dead_downloads(unpinned: Path, origin: Origin) -> None:
    """`--check` asks once for each URL that is known, by HEAD, and marks what is gone; nothing is created."""
    done = program(unpinned, "adopt", "--check", "get.sh")
    assert done.stdout.splitlines() == [
        f"get.sh:1: unpinned {origin.url}/data.zip",
        f"get.sh:2: unpinned {origin.url}/tool",
        f"get.sh:3: unpinned {origin.url}/gone dead",
        f"get.sh:4: unpinned {origin.url}/$UNKNOWN",
        f"get.sh:5: unpinned {origin.url}/tool",
    ]
    assert done.returncode == 1
    assert sorted(origin.paths()) == ["/data.zip", "/gone", "/tool"]
    assert {path.name for path in unpinned.iterdir()} == {
        "get.sh",
        "Dockerfile",
        "BUILD",
        "CMakeLists.txt",
        "subprojects",
    }
    (log,) = json.loads(program(unpinned, "adopt", "--check", "--sarif", "get.sh").stdout)["runs"]
    assert [result["ruleId"] for result in log["results"]].count("dead") == 1


def test_definitions_are_written(unpinned: Path, origin: Origin) -> None:
    """`--write` adds each download once and shows its replacement; the files that were found stay as they are."""
    before = {name: (unpinned / name).read_bytes() for name in UNPINNED}
    done = program(unpinned, "adopt", "--write")
    data, tool = (hashlib.sha256(content).hexdigest() for content in (b"data", b"tool"))
    assert [line for line in done.stdout.splitlines() if "replace with" in line] == [
        f'BUILD:1: replace with: sha256 = "{data}",',
        f"CMakeLists.txt:1: replace with: URL_HASH SHA256={data}",
        f"Dockerfile:1: replace with: ADD --checksum=sha256:{tool} {origin.url}/tool /opt/",
        "get.sh:1: replace with: doit-fetch get data data.zip",
        'get.sh:2: replace with: cat "$(doit-fetch path tool)"',
        "get.sh:5: replace with: doit-fetch get tool out",
        f"subprojects/x.wrap:2: replace with: source_hash = {data}",
        f"subprojects/x.wrap:3: replace with: patch_hash = {tool}",
    ]
    assert "get.sh:3: not added: " in done.stderr
    assert "get.sh:4: not added: a variable in its URL is not known; give the URL to `doit add`\n" in done.stderr
    assert before == {name: (unpinned / name).read_bytes() for name in UNPINNED}
    text = (unpinned / "fetchdefs/fetch/fetches.yml").read_text()
    assert text.count("static-url") == 2
    assert definition("data", f"{origin.url}/data.zip", b"data").splitlines()[3] in text
    assert program(unpinned, "path", "tool").returncode == 0
    assert program(unpinned, "adopt", "--write", "BUILD").stdout.count("replace with") == 1
    assert text == (unpinned / "fetchdefs/fetch/fetches.yml").read_text()


def test_credentials_are_not_shown(tmp_path: Path) -> None:
    """A user name and a password in a URL reach neither the lines nor SARIF."""
    (tmp_path / "get.sh").write_text("curl -O https://me:secret@h.example/a@1.tgz\n")
    lines, sarif = program(tmp_path, "adopt"), program(tmp_path, "adopt", "--sarif")
    assert lines.stdout == "get.sh:1: unpinned https://h.example/a@1.tgz\n"
    assert "https://h.example/a@1.tgz is" in sarif.stdout and "secret" not in sarif.stdout
