"""Images: make the layers that the cache and the stores lack, and put them into one archive with an OCI layout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, Final

from tasks_lib import archive, recipe
from tasks_lib.archive import Entry, make_entry
from tasks_lib.archive.compression import compress, describe_compression
from tasks_lib.cache import Result
from tasks_lib.context import Context
from tasks_lib.debian.lock import release_date
from tasks_lib.digest import Integrity
from tasks_lib.errors import BlobMissingError, UnsafeEntryError
from tasks_lib.formats import UNCHANGED, Reshape
from tasks_lib.image.oci import ImageFacts, ImageLayout, describe_layer, lay_out, write_index
from tasks_lib.image.rootfs import RootFilesystem, build_rootfs, require_version
from tasks_lib.image.stack import LayerStack
from tasks_lib.limits import Limits
from tasks_lib.progress import Progress
from tasks_lib.steps.artifacts import MadeContent, find_result, obtain_result, publish_from_cache
from tasks_lib.steps.builds import Artifact, Delivery, ImageBuild, LayerBuild, RootBuild
from tasks_lib.steps.checks import find_integrity
from tasks_lib.steps.debian import load_lock
from tasks_lib.steps.extract import format_of
from tasks_lib.tree.extraction import Extraction
from tasks_lib.tree.writer import file_entry

#: The prefix of a name that removes an entry of a lower layer.
#: Source: OCI image specification, "Image Layer Filesystem Changeset", "Whiteouts".
_WHITEOUT: Final = b"/.wh."
#: The tag of the only image in an archive, as buildah and BuildKit write it.
_TAG: Final = "latest"
_CHUNK: Final = 1 << 20
_SEPARATE: Final = "write a layer for each of them, where a later one replaces files, or set another `dest:`"


def build_image(context: Context, build: ImageBuild, progress: Progress) -> None:
    """Publish the archive of an image; make what the cache and the stores do not have.

    Raises:
        ArchiveError: an artifact is rejected, or two of one layer have the same path.
        TreeError: a layer changes a directory of a lower one.
        BlobMissingError, BlobCorruptError: an artifact disappeared or changed in the cache.
        CacheUnavailableError, CancelledError: as `fetch`.
    """
    if publish_from_cache(context, build.output):  # needs no lock, which a read-only cache does not offer
        return
    layers = obtain_layers(context, build, progress)
    with context.cache.lock(build.key, progress, build.output.path.name):
        if not publish_from_cache(context, build.output):
            _assemble(context, build, layers, progress)
            publish_from_cache(context, build.output)


def obtain_layers(context: Context, build: ImageBuild, progress: Progress) -> list[Integrity]:
    """Return the integrity of each layer, the lowest one first; the cache has them afterwards.

    Raises:
        ArchiveError, BlobMissingError, BlobCorruptError, CacheUnavailableError, CancelledError: as `build_image`.
    """
    return [_obtain(context, layer, progress) for layer in build.layers]


def has_layers(context: Context, build: ImageBuild) -> bool:
    """Return whether the cache has all layers of an image, so that nothing that it consumes is needed."""
    return all(find_result(context, layer.key) is not None for layer in build.layers)


def lay_out_image(
    context: Context, build: ImageBuild, layers: list[Integrity], compression: str, progress: Progress
) -> ImageLayout:
    """Return the layout of an image whose layers are compressed as "zstd" or "gzip", or as they are for "none".

    The cache has the layers of the layout afterwards.

    Raises:
        LockStaleError, LockMismatchError: the lock of its base changed.
        BlobMissingError, BlobCorruptError, CacheUnavailableError, CancelledError: as `build_image`.
    """
    facts = ImageFacts(build.image.name, build.machine, _date_of(context, build), build.image.config)
    stored = [_compressed(context, layer, compression, progress) for layer in layers]
    files = [describe_layer(layer, compression) for layer in stored]
    return lay_out(facts, files, [str(layer.digest) for layer in layers], [layer.what for layer in build.layers])


def _compressed(context: Context, layer: Integrity, compression: str, progress: Progress) -> Integrity:
    """Return a layer compressed; the cache keeps it until it is pruned."""
    if compression == "none":
        return layer
    key = recipe.compressed_key(layer, describe_compression(compression))
    known = context.cache.result(key)
    if known is not None and context.cache.has(known.integrity):
        return known.integrity
    progress.phase("repack", total=layer.size)
    with context.cache.open(layer) as file, context.cache.writer() as writer:
        compress(file, compression, size=layer.size, write=writer.write, progress=progress)
        integrity = writer.commit()
    context.cache.record(Result(key=key, integrity=integrity, provenance={"layer": str(layer.digest)}))
    return integrity


def _obtain(context: Context, layer: LayerBuild, progress: Progress) -> Integrity:
    make = partial(_make, context, layer, progress)
    return obtain_result(context, layer.key, layer.what, layer.platform, make, progress)


def _date_of(context: Context, build: ImageBuild) -> int:
    """Return the date of an image in seconds since 1970: the given one, that of the lock of its base, or 0."""
    if build.created_s is not None:
        return build.created_s
    root = next((layer.root for layer in build.layers if layer.root is not None), None)
    return release_date(load_lock(context, root.source, root.repository)) if root is not None else 0


def _make(context: Context, layer: LayerBuild, progress: Progress) -> MadeContent:
    with context.cache.writer() as writer:
        if layer.root is not None:
            _write_root(context, layer.root, writer.write, progress)
        else:
            with _name_next_step(layer):
                _write_layer(context, layer, writer.write, progress)
        return MadeContent(writer.commit(), {"made": "here"})


def _write_root(context: Context, root: RootBuild, write: Callable[[bytes], object], progress: Progress) -> None:
    """Write a root file system; the repository of its packages is unpacked for that time only."""
    require_version(context.environ.get("PATH"), root.version)
    lock = load_lock(context, root.source, root.repository)
    names = sorted({one.package for one in lock.packages if one.architecture in (root.architecture, "all")})
    limits = context.limits(root.source.archive)
    with context.cache.staging() as place, context.cache.staging() as staging:
        repository = place / "repository"
        with context.cache.open(_integrity_of(context, root.repository)) as file:
            Extraction(repository, place / "repository.json").extract(
                file, name=root.repository.path.name, format="tar.zst", reshape=UNCHANGED, limits=limits, key="",
                progress=progress,
            )  # fmt: skip
        build_rootfs(
            RootFilesystem(
                repository=repository,
                packages=names,
                suite=lock.releases[0].codename,
                architecture=root.architecture,
                essential=root.source.essential,
                epoch=release_date(lock),
            ),
            staging=staging,
            write=write,
            environ=context.environ,
            limits=limits,
            progress=progress,
        )


def _write_layer(context: Context, layer: LayerBuild, write: Callable[[bytes], object], progress: Progress) -> None:
    inputs = [(delivery, _integrity_of(context, delivery.artifact)) for delivery in layer.deliveries]
    limits = _join_limits(context, layer)
    progress.phase("repack", total=sum(integrity.size for _, integrity in inputs))
    with contextlib.ExitStack() as stack, context.cache.temporary() as spool:
        opened = [(delivery, stack.enter_context(context.cache.open(integrity))) for delivery, integrity in inputs]
        archive.write(
            _read_all(context, layer, opened, progress),
            name=layer.what,
            limits=limits,
            allowed=sum(limits.max_total_for(integrity.size) for _, integrity in inputs),
            mtime=context.mtime,
            spool=spool,
            write=write,
            progress=progress,
            compression="none",
        )


@contextlib.contextmanager
def _name_next_step(layer: LayerBuild) -> Iterator[None]:
    """Explain what to do about one path of two artifacts, which no option of an archive can settle."""
    try:
        yield
    except UnsafeEntryError as error:
        if error.code == "DUPLICATE" and len(layer.deliveries) > 1:
            error.hint = _SEPARATE
        raise


def _integrity_of(context: Context, artifact: Artifact) -> Integrity:
    integrity = find_integrity(context, artifact)
    if integrity is None:
        raise BlobMissingError(f"{artifact.path.name} has not been built", hint=f"run `doit {artifact.task}`")
    return integrity


def _join_limits(context: Context, layer: LayerBuild) -> Limits:
    """Return the limits for all entries of a layer: the largest of each, and each option that a definition sets.

    `duplicates` applies to each archive, not to the layer: the archives of a layer have no order.
    """
    joined: dict[str, Any] = context.settings.limits._asdict()
    for delivery in layer.deliveries:
        for name, value in delivery.limits:
            joined[name] = max(value, joined[name]) if isinstance(value, int) else value
    return Limits(**{**joined, "duplicates": "refuse"})


def _read_all(
    context: Context, layer: LayerBuild, opened: list[tuple[Delivery, BinaryIO]], progress: Progress
) -> Iterator[Entry]:
    """Yield the entries of a layer, at their paths in the root file system.

    Raises:
        UnsafeEntryError: an entry would remove what the layers below have.
    """
    for delivery, file in opened:
        dest = "/".join(filter(None, (layer.dest, str(delivery.entry.dest or ""))))
        for entry in _read(context, delivery, dest, file, progress):
            if _WHITEOUT in b"/" + entry.path:
                raise archive.unsafe_entry("would remove a file of the layers below", "WHITEOUT", entry.path)
            yield entry


def _read(context: Context, delivery: Delivery, dest: str, file: BinaryIO, progress: Progress) -> Iterator[Entry]:
    name, limits, reshape = delivery.artifact.path.name, context.limits(delivery.limits), delivery.reshape
    kind = format_of(delivery, file, limits)
    file.seek(0)
    if kind is None:
        for entry in file_entry(file, name, reshape.executable):
            path = os.fsencode(f"{dest}/".lstrip("/")) + entry.path
            yield make_entry(
                path, entry.kind, limits, size=entry.size, executable=entry.executable, chunks=entry.chunks
            )
        return
    moved = Reshape(strip=reshape.strip, prefix=f"{dest}/{reshape.prefix}".lstrip("/"), executable=reshape.executable)
    with archive.open_entries(
        file, name=name, format=kind, reshape=moved, limits=limits, check=progress.check
    ) as entries:
        yield from entries


def _assemble(context: Context, build: ImageBuild, layers: list[Integrity], progress: Progress) -> None:
    _check_stack(context, build, layers, progress)
    layout, name = lay_out_image(context, build, layers, "none", progress), build.image.name
    documents = {**layout.documents, **write_index({name: layout}, {name: _TAG})}
    stored = {one.path: one.integrity for one in layout.layers}
    files = {path: len(content) for path, content in documents.items()}
    files |= {path: integrity.size for path, integrity in stored.items()}
    total = sum(files.values())

    def contents(entry: Entry) -> Iterator[bytes]:
        path = os.fsdecode(entry.path)
        if path in documents:
            yield documents[path]
            return
        with context.cache.open(stored[path]) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
                progress.advance(len(chunk))

    progress.phase("repack", total=total)
    with context.cache.writer() as writer:
        archive.write_sized(
            [Entry(os.fsencode(path), "file", size) for path, size in files.items()],
            contents,
            name=build.output.path.name,
            limits=Limits(max_member_bytes=total, max_total_bytes=total),
            mtime=context.mtime,
            write=writer.write,
            progress=progress,
            compression="none",
        )
        integrity = writer.commit()
    context.cache.record(Result(key=build.key, integrity=integrity, provenance={"digest": layout.digest}))


def _check_stack(context: Context, build: ImageBuild, layers: list[Integrity], progress: Progress) -> None:
    stack = LayerStack(build.image.name, context.settings.limits)
    for layer, integrity in zip(build.layers, layers, strict=True):
        with context.cache.open(integrity) as file:
            stack.add(layer.what, file, progress.check)
