"""`doit add`: write the definition of a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks_lib.cli.definition_command import JSON
from tasks_lib.cli.pin_command import DRY_RUN, FORMAT, PinCommand, given_path
from tasks_lib.engine.base_command import usage_error
from tasks_lib.errors import escape_lines, escape_text
from tasks_lib.progress import LineProgress
from tasks_lib.session import Session

if TYPE_CHECKING:
    from tasks_lib.definitions import Definitions
    from tasks_lib.pins.add import Added


class AddCommand(PinCommand):
    """`doit add`."""

    name = "add"
    doc_purpose = "write the definition of a URL, after downloading and verifying it"
    doc_usage = "URL"
    doc_description = (
        "URL is a file, or a repository with a tag or commit: https://example.org/x.git#v1.2. A fragment #sha256=HEX "
        "is checked. Exit status: 0 success; 1 the content cannot be had, or evidence contradicts it; "
        "2 unusable definitions; 3 invalid command line."
    )
    cmd_options = (
        {
            "name": "name", "short": "", "long": "name", "type": str, "default": "",
            "help": "name of the definition (default: the file's, with its version)",
        },
        {
            "name": "file", "short": "", "long": "file", "type": str, "default": "",
            "help": "definition file (default: the only one, else fetches.yml)",
        },
        {
            "name": "strip", "short": "", "long": "strip", "type": str, "default": "auto",
            "help": "leading path components to remove; auto: 1 if the archive has a single top directory",
        },
        {
            "name": "prefix", "short": "", "long": "prefix", "type": str, "default": "",
            "help": "text to put before every name of the archive",
        },
        {
            "name": "key", "short": "", "long": "key", "type": str, "default": "",
            "help": "public key (.asc, .gpg, .pub); copied to fetchdefs/keys if it verifies a signature",
        },
        {
            "name": "to", "short": "", "long": "to", "type": str, "default": "",
            "help": "toolchain:NAME gets the artifact",
        },
        DRY_RUN, JSON, FORMAT,
    )  # fmt: skip

    def work(self, session: Session, params: Any, args: list[str], progress: LineProgress) -> int:
        """Add the definition, and show it with its evidence."""
        from tasks_lib.pins.add import AddRequest, add  # needs the steps, which `doit help` does not
        from tasks_lib.pins.workspace import Workspace  # as above

        if len(args) != 1:
            raise usage_error("`add` needs one URL\n`doit help add` shows its options")
        strip = params["strip"]
        if strip != "auto" and not (strip.isascii() and strip.isdigit() and len(strip) < 4):
            raise usage_error(f"invalid value {escape_text(strip)!r} for --strip: expected auto or a number")
        request = AddRequest(
            url=args[0],
            name=params["name"],
            file=given_path(params["file"]),
            strip=strip,
            prefix=params["prefix"],
            key=given_path(params["key"]),
            toolchain=params["to"],
            mode="dry-run" if params["dry_run"] else "write",
        )
        added = add(Workspace(session.context, load_definitions(session), progress), request)
        self._show(added, params)
        return 0

    def _show(self, added: Added, params: Any) -> None:
        """Write the result."""
        from tasks_lib.pins.evidence import format_table, to_json  # needs the steps, which `doit help` does not
        from tasks_lib.pins.workspace import to_json as content_to_json  # as above
        from tasks_lib.pins.yaml_style import INDENT, block  # as above

        own = added.integrity
        if params["format"] == "json":
            self.write_json({
                "name": added.name,
                "file": str(added.file),
                "definition": content_to_json(added.content),
                **({"size": own.size, "sha256": own.digest.hex} if own is not None else {}),
                "evidence": to_json(added.evidence),
                "notes": added.notes,
                "changed": [str(path) for path in added.files],
                "written": bool(added.files) and not params["dry_run"],
            })  # fmt: skip
            return
        if added.content:
            self.outstream.write(f"{block({added.name: added.content}, 0, INDENT)}\n\n{format_table(added.evidence)}\n")
        self.write_lines(f"note: {escape_lines(note)}" for note in added.notes)
        verb = "would write" if params["dry_run"] else "wrote"
        self.write_lines(f"{verb} {escape_text(str(path))}" for path in added.files)


def load_definitions(session: Session) -> Definitions:
    """Return the definitions; none for a project that has no files of definitions yet."""
    from tasks_lib.definitions import Definitions  # slow to import, not needed by `doit help`
    from tasks_lib.layout import find_layout  # as above

    layout = find_layout(session.settings.fetchdefs)
    if layout.kind or any(path.suffix in (".yml", ".yaml") for place in layout.places for path in _list(place)):
        return session.definitions
    return Definitions(fetches={}, toolchains={})


def _list(directory: Any) -> Any:
    return directory.rglob("*") if directory.is_dir() else ()
