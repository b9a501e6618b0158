"""The documentation: its generated pages, its commands, its links."""

from __future__ import annotations

import json
import runpy
from typing import Any

import jsonschema
import pytest
import yaml

from tasks_lib.definitions import SourceFile, json_schema, parse
from tasks_lib.definitions.mirrors import mirrors_schema
from tasks_lib.errors import DefinitionError, SettingError
from tasks_lib.settings import SETTINGS, Settings
from tests.project import ROOT

DOCS = ROOT / "docs"
GENERATOR: dict[str, Any] = runpy.run_path(str(DOCS / "generate.py"))
SECTIONS = GENERATOR["SECTIONS"]
#: Keys that are in the tables only to be refused with a reason.
REFUSED = {"branch", "index-search"}
#: Needed by examples of toolchains.
OTHERS = "binutils: {description: d, run: {command: x, toolchain-artifact: b.tar}}\n"


# --- the reference ------------------------------------------------------------------------------


def test_generated_files_are_current() -> None:
    """A generated page is what the tables say; `python docs/generate.py` writes it."""
    for path, text in GENERATOR["files"]().items():
        assert path.read_text("utf-8") == text, path


def properties(schema: Any) -> list[tuple[str, Any]]:
    """Return every key of a schema, at any depth, with its schema."""
    if isinstance(schema, list):
        return [pair for one in schema for pair in properties(one)]
    if not isinstance(schema, dict):
        return []
    own = list(schema.get("properties", {}).items())
    return own + [pair for key, inner in schema.items() if key != "enum" for pair in properties(inner)]


def test_every_key_has_an_entry() -> None:
    """Every key of the schemas has a description, and an example in the reference."""
    known = {key for section in SECTIONS for key in section.examples}
    found = properties(json_schema()) + properties(mirrors_schema())
    assert {key for key, schema in found if "description" not in schema} == set()
    assert {key for key, _ in found} - {"task-defaults", "job-defaults"} == known


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
def test_examples_of_keys(section: Any) -> None:
    """Every key of a mapping has an example, which the schema and the reader accept."""
    schema = GENERATOR["schema_at"](section)
    assert set(section.examples) == set(schema["properties"])
    for key, text in section.examples.items():
        example = yaml.safe_load(text)
        assert key in example
        for name, value in example.items():
            jsonschema.validate(value, schema["properties"][name])
        document = yaml.safe_load(section.base)
        place = document
        for step in section.place:
            place = place[step]
        place.update(example)
        found = [SourceFile(kind=section.kind, path="own.yml", text=yaml.safe_dump(document), directory="/base")]
        if section.kind == "toolchain":
            gmp = GENERATOR["_FILES"]["fetch"]
            found.insert(0, SourceFile(kind="fetch", path="f.yml", text=gmp, directory="/base"))
            found.append(SourceFile(kind="toolchain", path="o.yml", text=OTHERS, directory="/base"))
        if key in REFUSED:
            with pytest.raises(DefinitionError, match=key):
                parse(found)
        else:
            parse(found)


def test_examples_of_settings() -> None:
    """Every setting has an example, which is valid and other than the default."""
    assert list(GENERATOR["VALUES"]) == [one.environ for one in SETTINGS]
    for one in SETTINGS:
        value = GENERATOR["VALUES"][one.environ]
        assert value != f"{one.default}"
        Settings.parse(variables={}, environ={one.environ: value})
        if one.choices:
            assert all(f"{word}" in one.meaning or word == "full" for word in one.choices), one
            with pytest.raises(SettingError):
                Settings.parse(variables={}, environ={one.environ: "banana"})


def test_schemas_stand_alone() -> None:
    """A schema has an id, is valid, and accepts the definitions of this repository."""
    for schema in (json_schema(), mirrors_schema()):
        assert schema["$id"].startswith("urn:doit-fetch:")
        jsonschema.Draft202012Validator.check_schema(schema)
    for path in (ROOT / "fetchdefs").glob("*/*.yml"):
        jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), json_schema())
    jsonschema.validate(yaml.safe_load((ROOT / "fetchdefs/mirrors.yml").read_text("utf-8")), mirrors_schema())
    assert json.loads((DOCS / "fetchdefs.schema.json").read_text("utf-8")) == json.loads(json.dumps(json_schema()))
