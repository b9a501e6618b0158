"""What `doit info` shows of a task beside its edges: artifact, identity, where it is defined and comes from."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping
from typing import Any

from tasks_lib import recipe
from tasks_lib.definitions import Fetch, StaticUrl
from tasks_lib.steps import Artifact, Delivery, Preparation


class Facts(Mapping[str, Any]):
    """What `doit info` shows of a task, and the class of workers for it; made when somebody asks for more than that."""

    __slots__ = ("_pool", "_tell", "_words")

    def __init__(self, pool: str, tell: Callable[..., dict[str, Any]], *words: Any) -> None:
        self._pool, self._tell, self._words = pool, tell, words

    def items(self) -> ItemsView[str, Any]:
        """Return all of them, made once for whoever wants more than one."""
        return (self._tell(*self._words) | {"pool": self._pool}).items()

    def __getitem__(self, name: str) -> Any:
        return self._pool if name == "pool" else self._tell(*self._words)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.items()))

    def __len__(self) -> int:
        return len(self.items())


def of_delivery(made: Delivery) -> dict[str, Any]:
    """Return what is shown of an extraction."""
    return {"recipe_key": made.key}


def of_artifact(made: Artifact) -> dict[str, Any]:
    """Return what is shown of a repacked artifact."""
    return {"artifact": made.path.name, "recipe_key": made.key}


def of_preparation(made: Preparation) -> dict[str, Any]:
    """Return what is shown of a toolchain."""
    return {"recipe_key": made.key, "directory": str(made.directory)}


def of_fetch(fetch: Fetch, key: str) -> dict[str, Any]:
    """Return what is shown of a fetch; `key` is its recipe key."""
    facts: dict[str, Any] = {"artifact": fetch.source.artifact_name, "defined": f"{fetch.file}:{fetch.line}"}
    if isinstance(fetch.source, StaticUrl):
        facts["size"] = fetch.source.integrity.size
        facts["sha256"] = fetch.source.integrity.digest.hex
        facts["sources"] = [fetch.source.url, *fetch.source.mirrors]
    else:
        facts["revision"] = fetch.source.revision
        facts["sources"] = [fetch.source.repo]
    facts["recipe_key"] = key
    facts["taskgraph_digest"] = recipe.taskgraph_digest(fetch)
    if fetch.ignored:
        facts["ignored"] = list(fetch.ignored)
    return facts
