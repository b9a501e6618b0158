"""A relative path stays where it is put."""

import pytest

from tasks_lib.relpath import RelPath


@pytest.mark.parametrize("text", ["a", "a/b", "a b/ü", "-rf", "..a/b..", "a/"])
def test_safe_paths(text: str) -> None:
    """Odd names that stay inside are accepted as they are, but for one closing slash."""
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
    """Whatever could leave, or be read differently elsewhere, is refused with its reason."""
    with pytest.raises(ValueError, match=reason):
        RelPath.parse(text)
