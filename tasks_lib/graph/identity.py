"""What shapes the output of a task, in words: kept with its success, so that a change can be named later.

The recipe key decides; these are its parts as a person knows them.
"""

from __future__ import annotations

from tasks_lib.definitions import Fetch, StaticUrl
from tasks_lib.formats import TREE_VERSION
from tasks_lib.steps import Delivery, Preparation

#: Hex digits of a key that are shown: enough to tell two apart.
_SHOWN = 16

Identity = dict[str, str]


def of_fetch(fetch: Fetch) -> Identity:
    """Return what the content of a fetch depends on."""
    source = fetch.source
    if isinstance(source, StaticUrl):
        return {"size": str(source.integrity.size), source.integrity.digest.algorithm: source.integrity.digest.hex}
    return {"revision": source.revision}


def of_repack(fetch: Fetch, writer_version: str) -> Identity:
    """Return what a normalised archive depends on."""
    source = fetch.source
    shape = {"artifact-name": source.artifact_name, "version of the archive writer": writer_version}
    if isinstance(source, StaticUrl):
        shape |= {"strip-components": str(source.strip_components), "add-prefix": source.add_prefix}
        shape |= {"duplicates": source.duplicates} if source.duplicates != "refuse" else {}
    else:
        shape |= {"path-prefix": source.path_prefix}
    return of_fetch(fetch) | shape


def of_delivery(delivery: Delivery) -> Identity:
    """Return what an extracted or placed artifact depends on."""
    return {
        f"artifact {delivery.artifact.path.name}": delivery.artifact.key[:_SHOWN],
        "dest": str(delivery.entry.dest or ""),
        "delivery": delivery.entry.delivery,
        "version of the tree writer": str(TREE_VERSION),
    }


def of_preparation(preparation: Preparation) -> Identity:
    """Return what a toolchain depends on."""
    run = preparation.toolchain.run
    identity = {f"{one.entry.kind} {one.entry.name}": one.key[:_SHOWN] for one in preparation.deliveries}
    identity |= {f"content of {text}": digest for text, digest in preparation.files}
    if run is not None:
        identity |= {f"env {name}": value for name, value in run.env}
        identity |= {"command": " ".join(run.command), "script": run.script.text if run.script else ""}
        identity |= {"arguments": " ".join(run.arguments), "toolchain-artifact": str(run.toolchain_artifact or "")}
    return {name: value for name, value in identity.items() if value}
