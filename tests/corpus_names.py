"""Names and symlinks of tar entries: escapes, hidden entries, and unusual but harmless names."""

from __future__ import annotations

from tests.archives import Member, gnu, pax, record, tar
from tests.cases import Tree, X, accepted, hard, link, refused

for label, name, code in (
    ("dotdot", "../evil", "DOTDOT"), ("dotdot-middle", "a/../b", "DOTDOT"), ("dotdot-end", "a/..", "DOTDOT"),
    ("dotdot-deep", "a/b/../../../evil", "DOTDOT"), ("dotdot-dot", "./../evil", "DOTDOT"),
    ("dotdot-directory", "../evil/", "DOTDOT"), ("dotdot-backslash", "..\\evil", "DOTDOT"),
    ("dotdot-backslash-inner", "a\\..\\..\\evil", "DOTDOT"),
    ("absolute", "/tmp/evil", "ABSOLUTE"), ("absolute-double", "//tmp/evil", "ABSOLUTE"),
    ("absolute-directory", "/evil/", "ABSOLUTE"), ("absolute-drive", "C:\\evil", "ABSOLUTE"),
    ("absolute-drive-slash", "C:/evil", "ABSOLUTE"), ("absolute-drive-dot", "./C:/evil", "ABSOLUTE"),
    ("absolute-unc", "\\\\server\\evil", "ABSOLUTE"), ("leave-and-return", "../out/x", "DOTDOT"),
    ("name-empty", "", "NAME_EMPTY"), ("name-dot", ".", "ROOT"), ("name-dots", "./.", "ROOT"),
    ("name-newline", "a\nb", "NAME_CONTROL"), ("name-escape", "a\x1b[31mb", "NAME_CONTROL"),
    ("name-delete", "a\x7fb", "NAME_CONTROL"), ("name-tab", "a\tb", "NAME_CONTROL"), ("name-return", "a\rb", "NAME_CONTROL"),
    ("name-nul", "safe\0/../evil", "NAME_CONTROL"),
):  # fmt: skip
    refused(f"tar-{label}", code, tar([Member(name) if name.endswith("/") else Member(name, b"x")]))
    if "\0" not in name and name and not name.endswith("/"):
        refused(f"tar-pax-{label}", code, tar([pax(record("path", name)), X]))
        refused(f"tar-gnu-{label}", code, tar([gnu(name), X]))
refused("tar-name-slash", "ABSOLUTE", tar([Member("/")]))
refused("tar-dotdot-prefix-field", "DOTDOT", tar([Member("x", b"x", prefix="../evil")]))
refused("tar-absolute-prefix-field", "ABSOLUTE", tar([Member("x", b"x", prefix="/evil")]))
refused("tar-pax-nul", "NAME_CONTROL", tar([pax(record("path", b"a\0b")), X]))
refused("tar-gnu-nul", "GNU_NAME", tar([gnu("a\0b"), X]))
refused("tar-gnu-empty", "GNU_NAME", tar([gnu(""), X]))
refused("tar-pax-path-empty", "NAME_EMPTY", tar([pax(record("path", "")), X]))
refused("tar-component-256", "COMPONENT_TOO_LONG", tar([gnu("n" * 256), X]))
refused("tar-path-4096", "PATH_TOO_LONG", tar([gnu("/".join(["n" * 200] * 21)), X]))
refused("tar-depth-257", "TOO_DEEP", tar([gnu("d/" * 256 + "f"), X]))
refused("tar-depth-1900", "TOO_DEEP", tar([gnu("d/" * 1900 + "f"), X]))
accepted("tar-depth-256", {"d/" * 255 + "f": b"x"}, tar([gnu("d/" * 255 + "f"), X]))
accepted("tar-component-255", {"n" * 255: b"x"}, tar([gnu("n" * 255), X]))
KEEP = {"control_names": "keep"}
CONTROL = ("Icon\r", "a\nb", "a\x1b[31mb", "a\x7fb", "\t", "d\r/Icon\r", "\x01")
accepted("tar-control-names", dict.fromkeys(CONTROL, b"x"), tar([Member(name, b"x") for name in CONTROL]), options=KEEP)
accepted("tar-control-pax", {"a\nb": b"x"}, tar([pax(record("path", "a\nb")), X]), options=KEEP)
accepted("tar-control-targets", {"l": "-> Icon\r", "Icon\r": b"x", "h": b"x"},
         tar([link("l", "Icon\r"), Member("Icon\r", b"x"), hard("h", "Icon\r")]), options=KEEP)  # fmt: skip
for label, code, members in (
    ("nul", "NAME_CONTROL", [Member("a\0b", b"x")]), ("pax-nul", "NAME_CONTROL", [pax(record("path", b"a\0b")), X]),
    ("dotdot", "DOTDOT", [Member("\r/../../a", b"x")]), ("absolute", "ABSOLUTE", [Member("/\r", b"x")]),
    ("target-nul", "LINK_TARGET", [pax(record("linkpath", b"a\0b")), link("a", "x")]), ("root", "ROOT", [Member("./.", b"x")]),
    ("twice", "DUPLICATE", [Member("\r", b"x"), Member("\r", b"y")]), ("outside", "SYMLINK_OUTSIDE", [link("\r", "../\r")]),
):  # fmt: skip
    refused(f"tar-control-{label}", code, tar(members), options=KEEP)
refused("tar-target-control", "LINK_TARGET", tar([link("a", "Icon\r")]))
ODD = ("-rf", "~", "$HOME", "`id`", "a b", "*", "a'b", 'a"b', "a\\b", "a:b", "\u202egnp.exe", "\u200b", "a;b", "{x}", "a&b", "C:b", "A::B", "trailing.", " ", "\udcff\udcfe", "caf\udce9")  # fmt: skip
accepted("tar-odd-names", {name: name.encode("utf-8", "surrogateescape") for name in ODD},
         tar([Member(name, name.encode("utf-8", "surrogateescape")) for name in ODD]))  # fmt: skip
accepted("tar-case-twins", {"a": b"1", "A": b"2", "\u00e9": b"3", "e\u0301": b"4", "d/x": b"5", "D/x": b"6"},
         tar([Member("a", b"1"), Member("A", b"2"), Member("\u00e9", b"3"), Member("e\u0301", b"4"), Member("d/x", b"5"), Member("D/x", b"6")]))  # fmt: skip
accepted("tar-own-markers", {".prepared.json": b"{}", ".records/x.json": b"{}", ".part": b"x", ".lock": b"y"},
         tar([Member(".prepared.json", b"{}"), Member(".records/x.json", b"{}"), Member(".part", b"x"), Member(".lock", b"y")]))  # fmt: skip
accepted(
    "tar-dot-prefix",
    {"a/b": b"x", "a/c": b"y"},
    tar([Member("./"), Member("./a/"), Member("./a/b", b"x"), Member("./a//c", b"y")]),
)

# --- symlinks

for label, target in (("absolute", "/etc/passwd"), ("absolute-root", "/"), ("absolute-double", "//x")):
    refused(f"tar-symlink-{label}", "SYMLINK_ABSOLUTE", tar([link("a", target)]))
for label, members in {
    "dotdot": [link("a", "../x")], "dotdot-only": [link("a", "..")], "dotdot-deep": [link("d/a", "../../x")],
    "dotdot-middle": [Member("d/"), link("a", "d/../../x")], "trailing-slash": [link("d/a/", "../../x")],
    "trailing-slash-one": [link("a/", "..")],
    "two-hop": [link("a", "."), link("b", "a/..")], "two-hop-deep": [Member("d/"), link("d/a", ".."), link("b", "d/a/..")],
    "late-rebind": [link("b", "a/.."), link("a", ".")], "late-rebind-deep": [link("x", "d/e/../.."), Member("d/"), link("d/e", "..")],
    "through-nothing": [link("a", "nothing/..")], "through-a-file": [Member("f"), link("a", "f/../..")],
    "dir-metadata": [link("d", "../.."), Member("e/")],
}.items():  # fmt: skip
    refused(f"tar-symlink-{label}", "SYMLINK_OUTSIDE", tar(members))


def pathmax() -> bytes:
    """CVE-2025-4517: a chain of short links to long directories, longer than PATH_MAX once resolved."""
    members, here, long = [], "", "d" * 247
    for step in "abcdefghijklmnop":
        members += [gnu(f"{here}{long}/"), Member("x/"), gnu(f"{here}{step}"), gnu(long, b"K"), link("x", "y")]
        here += f"{long}/"
    chain = "/".join("abcdefghijklmnop")
    end = f"{chain}/{'l' * 254}"
    return tar(
        [
            *members,
            gnu(end),
            gnu("../" * 16, b"K"),
            link("x", "y"),
            gnu("escape"),
            gnu(f"{end}/../../../etc", b"K"),
            link("x", "y"),
        ]
    )


refused("tar-symlink-pathmax", "BELOW_NON_DIRECTORY PATH_TOO_LONG SYMLINK_OUTSIDE", pathmax)
PATHMAX_OF_NAMES = [
    part for index, step in enumerate("abcdefgh")
    for part in ([gnu(("d" * 200 + "/") * (index + 1)), Member("x/"), gnu(("d" * 200 + "/") * index + step), gnu("d" * 200, b"K"), link("x", "y")])
]  # fmt: skip
refused("tar-symlink-pathmax-inside", "SYMLINK_OUTSIDE",
        tar([*PATHMAX_OF_NAMES, gnu("escape"), gnu("/".join("abcdefgh") + "/.." * 9, b"K"), link("x", "y")]))  # fmt: skip
refused("tar-symlink-hops", "SYMLINK_HOPS", tar([*(link(f"l{n}", f"l{n - 1}") for n in range(1, 50)), X]))
accepted("tar-symlink-39-hops", {"l0": b"x", **{f"l{n}": f"-> l{n - 1}" for n in range(1, 40)}},
         tar([Member("l0", b"x"), *(link(f"l{n}", f"l{n - 1}") for n in range(1, 40))]))  # fmt: skip
refused(
    "tar-symlink-intricate",
    "SYMLINK_HOPS",
    lambda: tar([m for n in range(600) for m in (gnu("./" * 2000 + "x", b"K"), link(f"l{n}", "y"))]),
)
refused(
    "tar-symlink-doubling",
    "SYMLINK_HOPS",
    tar([Member("d/"), link("l0", "d"), *(link(f"l{n}", f"l{n - 1}/../l{n - 1}") for n in range(1, 60))]),
)
accepted("tar-symlink-inside", {"d/a": b"x", "l": "-> d/a", "d/up": "-> ../l", "d/self": "-> .", "top": "-> d/.."},
         tar([link("l", "d/a"), Member("d/a", b"x"), link("d/up", "../l"), link("d/self", "."), link("top", "d/..")]))  # fmt: skip
accepted(
    "tar-symlink-dangling",
    {"a": "-> nothing", "d/b": "-> ../nothing/at/all"},
    tar([link("a", "nothing"), link("d/b", "../nothing/at/all")]),
)
accepted(
    "tar-symlink-loop", {"a": "-> b", "b": "-> a", "c": "-> c"}, tar([link("a", "b"), link("b", "a"), link("c", "c")])
)
accepted("tar-symlink-loop-in-path", {"a": "-> a/b", "c": "-> a/../d"}, tar([link("a", "a/b"), link("c", "a/../d")]))
for label, members in {
    "write-through": [link("d", "e"), Member("e/"), Member("d/x", b"x")],
    "write-through-outside": [link("d", "/tmp"), Member("d/x", b"x")],
    "write-through-directory": [link("d", "e"), Member("e/"), Member("d/f/")],
    "write-through-link": [link("d", "e"), Member("e/"), link("d/x", "y")],
    "internal-deep": [Member("a/b/"), link("c", "a"), Member("c/b/x", b"x")],
    "loop-write": [link("d", "d"), Member("d/x", b"x")],
}.items():  # fmt: skip
    refused(f"tar-symlink-{label}", "BELOW_NON_DIRECTORY", tar(members))
refused("tar-symlink-casefold-swap", "CASE_TWIN", tar([link("Dir", "e"), Member("e/"), Member("dir/x", b"x")]))
refused(
    "tar-symlink-unicode-swap", "CASE_TWIN", tar([link("stra\u00dfe", "e"), Member("e/"), Member("strasse/x", b"x")])
)
refused("tar-symlink-unicode-form", "CASE_TWIN", tar([link("\u00e9", "e"), Member("e/"), Member("e\u0301/x", b"x")]))
for label, members in {
    "dir-then-symlink": [Member("d/"), link("d", "e")], "symlink-then-dir": [link("d", "e"), Member("d/")],
    "symlink-then-file": [link("d", "e"), Member("d", b"x")], "file-then-symlink": [Member("d", b"x"), link("d", "e")],
    "duplicate-symlink": [link("d", "e"), link("d", "f")], "duplicate-file": [Member("a", b"1"), Member("a", b"2")],
    "duplicate-mode": [Member("a", b"1"), Member("a", b"1", mode=0o755)], "duplicate-shorter": [Member("a", b"12"), Member("a", b"1")],
    "duplicate-longer": [Member("a", b"1"), Member("a", b"12")], "duplicate-empty": [Member("a", b"1"), Member("a")],
    "duplicate-large": [Member("a", b"1" * (1 << 19)), Member("a", b"1" * ((1 << 19) - 1) + b"2")],
    "hardlink-then-other": [Member("a", b"1"), hard("b", "a"), Member("c", b"1"), hard("b", "c")],
    "hardlink-self-directory": [Member("a/"), hard("a", "a")], "hardlink-repeats-missing": [Member("a"), hard("a", "b")],
    "duplicate-dotted": [Member("a", b"1"), Member("./a", b"2")],
    "file-then-directory": [Member("a", b"1"), Member("a/")], "directory-then-file": [Member("a/"), Member("a", b"1")],
    "implied-then-file": [Member("a/b", b"1"), Member("a", b"1")],
    "hardlink-alias-overwrite": [Member("a", b"1"), hard("b", "a"), Member("b", b"2")],
}.items():  # fmt: skip
    refused(f"tar-{label}", "DUPLICATE", tar(members))
refused("tar-file-as-directory", "BELOW_NON_DIRECTORY", tar([Member("a", b"1"), Member("a/b", b"2")]))
refused("tar-hardlink-as-directory", "BELOW_NON_DIRECTORY", tar([Member("f"), hard("a", "f"), Member("a/b", b"2")]))
accepted(
    "tar-duplicate-directory",
    {"d": "/", "d/x": b"x"},
    tar([Member("d/"), Member("d/x", b"x"), Member("d/"), Member("./d/")]),
)
REPEATED: dict[str, tuple[Tree, list[Member]]] = {
    "file": ({"a": b"1", "b": b"2"}, [Member("a", b"1"), Member("b", b"2"), Member("a", b"1"), Member("./a", b"1")]),
    "empty": ({"a": b""}, [Member("a"), Member("a")]),
    "large": ({"a": b"1" * (1 << 19)}, [Member("a", b"1" * (1 << 19))] * 2),
    "executable": ({"a": b"x1"}, [Member("a", b"1", mode=0o755), Member("a", b"1", mode=0o700)]),
    "symlink": ({"a": "-> b"}, [link("a", "b"), link("a", "b")]),
    "symlink-self": ({"a": "-> b"}, [link("a", "b"), hard("a", "a")]),
    "hardlink-self": ({"a": b"1"}, [Member("a", b"1"), hard("a", "a"), hard("a", "./a")]),
    "hardlink": ({"a": b"1", "b": b"1"}, [Member("a", b"1"), hard("b", "a"), hard("b", "a"), hard("a", "b"), hard("b", "b")]),
    "file-over-its-hardlink": ({"a": b"1", "b": b"1"}, [Member("a", b"1"), hard("b", "a"), Member("b", b"1")]),
    "hardlink-to-symlink": ({"s": "-> x", "d/h": "-> x"}, [link("s", "x"), hard("d/h", "s"), hard("d/h", "s"), hard("d/h", "d/h")]),
    "hardlink-to-that": ({"s": "-> x", "h": "-> x", "i": "-> x"}, [link("s", "x"), hard("h", "s"), hard("i", "h")]),
}  # fmt: skip
for label, (tree, members) in REPEATED.items():
    accepted(f"tar-repeated-{label}", tree, tar(members))
for label, target in (("empty", ""), ("nul", "a\0b"), ("newline", "a\nb")):
    refused(f"tar-symlink-target-{label}", "LINK_TARGET NAME_CONTROL", tar([link("a", target)]))
refused("tar-symlink-target-long", "LINK_TARGET", tar([gnu("n" * 5000, b"K"), link("a", "x")]))
refused("tar-symlink-target-pax-empty", "LINK_TARGET", tar([pax(record("linkpath", "")), link("a", "x")]))
refused("tar-symlink-root", "ROOT", tar([link(".", "x")]))
refused("tar-symlink-root-slash", "ROOT", tar([link("./", "x")]))
