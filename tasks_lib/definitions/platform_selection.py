"""The definitions of one platform: `NAME` is its content, `NAME@PLATFORM` that of another one. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

import msgspec

from tasks_lib.definitions.values import Definitions, Fetch, Image, RefusedDefinition, Toolchain
from tasks_lib.platforms import ALL

Value = TypeVar("Value", bound="Fetch | Toolchain | Image")


class SelectedDefinitions(Mapping[str, Value], Generic[Value]):
    """Some of the definitions; `names` maps each name to the name in `known` and to the platform, "" for any."""

    def __init__(self, known: Mapping[str, Value], names: Mapping[str, tuple[str, str]]) -> None:
        self._known, self._names = known, names
        self._made: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        own, platform = self._names[name]
        if not platform:
            return self._known[own]
        if name not in self._made:
            self._made[name] = cast("Value", _of_platform(cast("Fetch", self._known[own]), name, platform))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def origins(self) -> Iterator[tuple[str, int, str]]:
        """Yield each name, the position of its definition among those of all platforms, and its platform, or ""."""
        positions = {name: at for at, name in enumerate(self._known)}
        return ((name, positions[own], platform) for name, (own, platform) in self._names.items())

    def of_this_platform(self) -> Iterator[str]:
        """Yield the names without a platform."""
        return (name for name, (own, _) in self._names.items() if name == own)

    def digests(self) -> dict[str, bytes]:
        """Return a short digest of the bytes of each definition."""
        known: Any = self._known  # a mapping of the cache of definitions
        digests = known.digests()
        return {name: digests[own] for name, (own, _) in self._names.items()}


def _of_platform(fetch: Fetch, name: str, platform: str) -> Fetch:
    source = dict(fetch.platforms)[platform]
    return msgspec.structs.replace(fetch, name=name, source=source, platforms=(), platform=platform)


def select_platform(definitions: Definitions, wanted: str, machine: str) -> Definitions:
    """Return the definitions as they are on one platform.

    Args:
        definitions: of all platforms.
        wanted: the platform, "" or "all" for that of this machine.
        machine: the platform of this machine, on which the commands of toolchains run.
    """
    platform = machine if wanted in ("", ALL) else wanted
    offers = definitions._platforms
    if not offers and platform == machine:
        return definitions
    missing = {name: offered for name, offered in offers.items() if platform not in offered}
    reasons = _find_unavailable(definitions, missing, platform, machine)
    skipped = [_skip_fetch(definitions.fetches[name], offered, platform) for name, offered in missing.items()]
    skipped += [_skip_consumer(definitions, task, reason) for task, reason in reasons.items()]
    fetches: dict[str, tuple[str, str]] = {}
    for name in definitions.fetches:
        for one in sorted(offers.get(name, ("",)), key=lambda one: one != platform):
            fetches[f"{name}@{one}" if one not in ("", platform) else name] = name, one
    toolchains = {name: (name, "") for name in definitions.toolchains if f"toolchain:{name}" not in reasons}
    images = {name: (name, "") for name in definitions.images if f"image:{name}" not in reasons}
    return msgspec.structs.replace(
        definitions,
        fetches=SelectedDefinitions(definitions.fetches, fetches),
        toolchains=SelectedDefinitions(definitions.toolchains, toolchains),
        images=SelectedDefinitions(definitions.images, images),
        skipped=tuple(skipped),
    )


def _find_unavailable(
    definitions: Definitions, missing: Mapping[str, object], platform: str, machine: str
) -> dict[str, str]:
    """Return the tasks of toolchains and images that cannot be built, and why: their command, or what they need."""
    if not missing and platform == machine:
        return {}
    reasons = {
        f"toolchain:{name}": f"its command runs on {machine}, not on {platform}"
        for name, one in definitions.toolchains.items()
        if platform != machine and one.run is not None and (one.run.command or one.run.script)
    }
    users: dict[str, list[str]] = {}
    for task, consumer in _consumers(definitions):
        needs = {(one.kind, one.name) for one in consumer.fetches} | set(consumer.dependencies)
        for kind, need in needs:
            own = definitions.fetch(need).name if kind == "fetch" else definitions.toolchain(need).name
            users.setdefault(f"{kind}:{own}", []).append(task)
    left = [*(f"fetch:{name}" for name in missing), *reasons]
    for task in left:  # users are appended
        for user in users.get(task, ()):
            if user not in reasons:
                reasons[user] = f"it needs {task}, which is not available for {platform}"
                left.append(user)
    return reasons


def _consumers(definitions: Definitions) -> Iterator[tuple[str, Toolchain | Image]]:
    """Yield each toolchain and image with its task."""
    yield from ((f"toolchain:{name}", one) for name, one in definitions.toolchains.items())
    yield from ((f"image:{name}", one) for name, one in definitions.images.items())


def _skip_fetch(fetch: Fetch, offered: tuple[str, ...], platform: str) -> RefusedDefinition:
    return RefusedDefinition(
        task=f"fetch:{fetch.name}",
        reason=f"it has no content for {platform}, only for {', '.join(offered)}",
        file=fetch.file,
        line=fetch.line,
        hint=f"`doit fetch:{fetch.name}@{offered[0]}` fetches that of another platform",
    )


def _skip_consumer(definitions: Definitions, task: str, reason: str) -> RefusedDefinition:
    kind, _, name = task.partition(":")
    one = definitions.kinds[kind][name]
    return RefusedDefinition(task=task, reason=reason, file=one.file, line=one.line)
