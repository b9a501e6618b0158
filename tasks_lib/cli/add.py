"""`doit add`: write the definition of a URL."""

from __future__ import annotations

import sys
from typing import Any

from tasks_lib.cli.project_command import DRY_RUN, FORMAT, PinCommand, given_path
from tasks_lib.definitions import Definitions
from tasks_lib.engine.base_command import JSON, flag, option, usage_error
from tasks_lib.errors import escape_lines, escape_text
from tasks_lib.layout import find_layout
from tasks_lib.network import redacted
from tasks_lib.pins.add import Added, AddRequest, apply, propose
from tasks_lib.pins.evidence import format_table, to_json
from tasks_lib.pins.workspace import Workspace
from tasks_lib.pins.workspace import to_json as content_to_json
from tasks_lib.pins.yaml_text import INDENT, block
from tasks_lib.progress import LineProgress
from tasks_lib.session import Session
from tasks_lib.units import counted


class AddCommand(PinCommand):
    """`doit add`."""

    name = "add"
    doc_usage = "URL"
    doc_description = (
        "URL is a file, or a repository with a tag or commit: https://example.org/x.git#v1.2. A fragment #sha256=HEX "
        "is checked. --platforms adds the files of the same release that differ in the platform of their names. "
        "Exit status: 0 success; 1 the content cannot be had, or evidence contradicts it; "
        "2 unusable definitions; 3 invalid command line."
    )
    cmd_options = (
        option("name", "name of the definition (default: the file's, with its version)"),
        option("file", "definition file (default: the only one, else fetches.yml)"),
        option(
            "strip",
            "leading path components to remove; auto: 1 if the archive has a single top directory",
            default="auto",
        ),
        option("prefix", "text to put before every name of the archive"),
        option("key", "public key (.asc, .gpg, .pub); copied to fetchdefs/keys if it verifies a signature"),
        option("to", "toolchain:NAME gets the artifact"),
        flag("platforms", "also add the files of other platforms in the same release; ask before writing"),
        flag("yes", "with --platforms: write without asking"),
        DRY_RUN,
        JSON,
        FORMAT,
    )

    def edit(self, session: Session, params: Any, args: list[str], progress: LineProgress) -> int:
        """Add the definition, and show it with its evidence."""
        if len(args) != 1:
            raise usage_error("`add` needs one URL\n`doit help add` shows its options")
        strip = params["strip"]
        if strip != "auto" and not (strip.isascii() and strip.isdigit() and len(strip) < 4):
            raise usage_error(f"invalid value {escape_text(strip)!r} for --strip: expected auto or a number")
        self._require_answer(params)
        request = AddRequest(
            url=args[0],
            name=params["name"],
            file=given_path(params["file"]),
            strip=strip,
            prefix=params["prefix"],
            key=given_path(params["key"]),
            toolchain=params["to"],
            mode="dry-run" if params["dry_run"] else "write",
            scope="platforms" if params["platforms"] else "file",
        )
        workspace = Workspace(session.context, load_definitions(session), progress)
        added = propose(workspace, request)
        if params["format"] != "json":
            self._show_proposal(added)
        if added.platforms and not params["yes"] and not params["dry_run"] and not self._is_agreed(added):
            sys.stderr.write("nothing was written\n")
            return 1
        apply(workspace, request, added)
        self._show_result(added, params)
        return 0

    def _require_answer(self, params: Any) -> None:
        """Check that a question can be answered.

        Raises:
            InvalidCommand: there is no terminal.
        """
        if not params["platforms"] or params["yes"] or params["dry_run"]:
            return
        if params["format"] == "json" or not (_is_terminal(sys.stdin) and _is_terminal(self.outstream)):
            raise usage_error(
                "`add --platforms` asks before it writes, which needs a terminal, and text as the format\n"
                "add --yes to write without a question, or --dry-run to see what would be written"
            )

    def _is_agreed(self, added: Added) -> bool:
        """Ask whether to write a definition."""
        self.outstream.write(
            f"write {escape_text(added.name)} with {counted(len(added.platforms), 'platform')}? [y/N] "
        )
        self.outstream.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def _show_proposal(self, added: Added) -> None:
        """Write the definition and its evidence."""
        if added.content:
            self.outstream.write(f"{block({added.name: added.content}, 0, INDENT)}\n\n")
        for platform, content in added.platforms.items():
            self.outstream.write(f"{platform}  {escape_text(redacted(content.url))}, {content.integrity.size} bytes\n")
            self.outstream.write(format_table(content.evidence))
        if added.content and not added.platforms:
            self.outstream.write(format_table(added.evidence))
        if added.content:
            self.outstream.write("\n")
        self.write_lines(f"left out: {escape_text(name)}: {escape_lines(why)}" for name, why in added.left_out.items())

    def _show_result(self, added: Added, params: Any) -> None:
        """Write what was written; everything as JSON."""
        own = added.integrity
        if params["format"] == "json":
            self.write_json({
                "name": added.name,
                "file": str(added.file),
                "definition": content_to_json(added.content),
                **({"size": own.size, "sha256": own.digest.hex} if own is not None else {}),
                "evidence": to_json(added.evidence),
                **({
                    "platforms": {
                        platform: {
                            "url": content.url,
                            "size": content.integrity.size,
                            "sha256": content.integrity.digest.hex,
                            "evidence": to_json(content.evidence),
                        }
                        for platform, content in added.platforms.items()
                    },
                    "left_out": added.left_out,
                } if added.platforms else {}),
                "notes": added.notes,
                "changed": [str(path) for path in added.files],
                "written": bool(added.files) and not params["dry_run"],
            })  # fmt: skip
            return
        self.write_lines(f"note: {escape_lines(note)}" for note in added.notes)
        verb = "would write" if params["dry_run"] else "wrote"
        self.write_lines(f"{verb} {escape_text(str(path))}" for path in added.files)


def _is_terminal(stream: Any) -> bool:
    return bool(stream is not None and stream.isatty())


def load_definitions(session: Session) -> Definitions:
    """Return the definitions; none for a project that has no files of definitions yet."""
    layout = find_layout(session.settings.fetchdefs)
    if layout.kind or any(path.suffix in (".yml", ".yaml") for place in layout.places for path in _list(place)):
        return session.definitions
    return Definitions(fetches={}, toolchains={})


def _list(directory: Any) -> Any:
    return directory.rglob("*") if directory.is_dir() else ()
