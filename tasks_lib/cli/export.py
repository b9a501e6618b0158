"""`doit export`: give downloads of the cache to other programs, in the layout that each of them reads."""

from __future__ import annotations

import sys
from typing import Any, Final

from tasks_lib.cli.project_command import ProjectCommand
from tasks_lib.engine.base_command import from_start, option, usage_error
from tasks_lib.export import OCI, export, export_images
from tasks_lib.project import Project
from tasks_lib.session import Session
from tasks_lib.ui.events import stderr_progress
from tasks_lib.units import counted

#: Definitions that are left out and shown by name.
_MAX_SHOWN: Final = 5


class ExportCommand(ProjectCommand):
    """`doit export`."""

    name = "export"
    doc_usage = "LAYOUT DIR [NAME ...]"
    doc_description = (
        "LAYOUT is url, cas, sha256sum, distdir, bazel, conan, nix, meson, vcpkg, find-links, dotslash, cmake, or oci "
        "for images. "
        "NAME is the name of a definition or a glob; a toolchain or an image means its fetches; without names, all. "
        "What the cache lacks is fetched first. Files of others in DIR stay. "
        "Prints the line that configures the program. Exit status: 0 success; 1 failure; 3 error of the definitions."
    )
    cmd_options = (
        option("url-base", "the URL at which DIR is served (default: its file: URL)", metavar="URL"),
        option("compression", "compression of the layers of images, for oci", metavar="HOW")
        | {"choices": (("zstd", "the default"), ("gzip", "for old engines"), ("none", "no compression"))},
    )

    def work(self, session: Session, params: Any, args: list[str]) -> int:
        """Export."""
        if len(args) < 2:
            raise usage_error("`export` needs a layout and a directory\n`doit help export` shows the layouts")
        progress = stderr_progress()
        layout, directory, *words = args
        project, path = Project(session, progress), from_start(directory)
        unused = "url_base" if layout == OCI else "compression"
        if params[unused]:
            raise usage_error(f"`--{unused.replace('_', '-')}` has no meaning for the layout {layout}\nleave it out")
        if layout == OCI:
            done = export_images(project, path, words, params["compression"] or "zstd", progress)
        else:
            done = export(project, layout, path, words, params["url_base"], progress)
        for line in _shortened(done.left_out):
            sys.stderr.write(f"not exported: {line}\n")
        written, unchanged, removed = done.changes
        sys.stderr.write(f"{layout}: {counted(written, 'file')} written, {unchanged} unchanged, {removed} removed\n")
        self.outstream.write(f"{done.line}\n")
        return 0


def _shortened(lines: Any) -> list[str]:
    more = len(lines) - _MAX_SHOWN
    return [*lines[:_MAX_SHOWN], *([f"and {more} more"] if more > 0 else [])]
