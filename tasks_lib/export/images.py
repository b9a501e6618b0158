"""Export images to a directory with an OCI layout, for programs that copy them to a registry.

Source: OCI image specification 1.1, "Image Layout".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tasks_lib.digest import Integrity
from tasks_lib.export.directory import ExportDirectory, RecordedFile, WantedFile, open_export
from tasks_lib.export.exporter import Export
from tasks_lib.export.layouts import OCI
from tasks_lib.image.oci import REFERENCE, ImageLayout, write_index
from tasks_lib.progress import Progress
from tasks_lib.project import Project

#: The file of a layout that names the images.
_INDEX: Final = "index.json"


def export_images(
    project: Project, directory: Path, words: Sequence[str], compression: str, progress: Progress
) -> Export:
    """Export images; make first what the cache does not have.

    The directory is created, and images of earlier exports in it stay unless `words`, names or globs of images, is ().
    `compression` of the layers is "zstd", "gzip" or "none".

    Raises:
        UnknownNameError: a word matches no image.
        TreeError: the directory cannot be written, or it has files of others.
        FetchError: an image cannot be made; see `Project.fetch`.
    """
    images = project.select_images(words)
    with open_export(project, directory, OCI, progress) as place:
        names = {image.name for image in images}

        def is_stale(one: RecordedFile) -> bool:
            return not words or bool(one.names and names.issuperset(one.names))

        layouts = {image.name: project.lay_out(image, compression) for image in images}
        wanted = _list_files(layouts, _read_others(place, names) if words else [])
        changes = place.update(wanted, is_stale)
    return Export(changes, (), "\n".join(f"{OCI}:{place.path}:{name}" for name in layouts))


def _list_files(layouts: dict[str, ImageLayout], others: list[dict[str, Any]]) -> dict[str, WantedFile]:
    """Return the files of these images, and the index of them and of those of earlier exports."""
    users: dict[str, tuple[Integrity, bytes | None, list[str]]] = {}
    for name, layout in layouts.items():
        for file in layout.layers:
            users.setdefault(file.path, (file.integrity, None, []))[2].append(name)
        for path, content in layout.documents.items():
            users.setdefault(path, (Integrity.of(content), content, []))[2].append(name)
    texts = write_index(layouts, {name: name for name in layouts}, others)
    users |= {path: (Integrity.of(content), content, []) for path, content in texts.items()}
    return {
        path: WantedFile(path, integrity, tuple(dict.fromkeys(names)), content, 0o644)
        for path, (integrity, content, names) in users.items()
    }


def _read_others(place: ExportDirectory, names: set[str]) -> list[dict[str, Any]]:
    """Return the images that an earlier export wrote into the index, without those with these names."""
    recorded = place.record.files.get(_INDEX)
    try:
        text = (place.path / _INDEX).read_bytes()
    except OSError:
        return []
    if recorded is None or Integrity.of(text) != recorded.integrity:
        return []  # of somebody else: it is not replaced
    return [one for one in json.loads(text)["manifests"] if one["annotations"][REFERENCE] not in names]
