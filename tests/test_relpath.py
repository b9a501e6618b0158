"""Relative paths cannot leave their base directory."""

import pytest

from tasks_lib.relpath import RelPath


@pytest.mark.parametrize("text", ["a", "a/b", "a b/ü", "-rf", "..a/b..", "a/"])
def test_safe_paths(text: str) -> None:
    """Unusual but safe paths are accepted unchanged, except for one trailing slash."""
    assert RelPath.parse(text).text == text.removesuffix("/")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("/", "empty"),
        ("/etc", "absolute"),
        ("a//b", "component"),
        ("..", "component"),
        ("a/../b", "component"),
        ("./a", "component"),
        ("a\\b", "backslash"),
        ("a\nb", "control"),
        ("x" * 256, "longer"),
        ("x/" * 2048 + "y", "longer"),
    ],
)
def test_unsafe_paths(text: str, reason: str) -> None:
    """A path that could leave its base, or that other systems interpret differently, is refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        RelPath.parse(text)
