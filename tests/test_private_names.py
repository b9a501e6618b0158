"""Private names of libraries: only those listed here are used, each with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import tasks_lib

#: Private names that the package uses but does not define. doit's are pinned (`doit<0.38`) and compared with stock doit
#: in tests/test_doit_faults.py; those of the standard library are documented or occur in annotations only.
ALLOWED: Final = {
    "_non_default_keys": "doit",
    "_stop_running": "doit",
    "_update_waiting": "doit",
    "_CMDLINE_VARS": "doit",
    "_asdict": "documented: collections.namedtuple",
    "_exit": "documented: os",
    "_Hash": "annotation: typeshed's name of a hashlib object",
    "_Decompress": "annotation: typeshed's name of a zlib decompressor",
}


def _modules() -> list[ast.Module]:
    top = Path(tasks_lib.__file__).parent
    return [ast.parse(path.read_text("utf-8")) for path in sorted(top.rglob("*.py"))]


def _defined(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def _used(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            yield from (str(one.value) for one in node.args[1:2] if isinstance(one, ast.Constant))


def test_no_other_private_name_of_a_library_is_used() -> None:
    """A name with one leading underscore that the package does not define itself belongs to a library."""
    modules = _modules()
    own = {name for module in modules for name in _defined(module)}
    used = {name for module in modules for name in _used(module) if name.startswith("_") and not name.startswith("__")}
    assert used - own == set(ALLOWED)
