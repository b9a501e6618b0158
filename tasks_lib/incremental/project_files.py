"""The files of a project: its definitions, their cache, and the files to which they refer; each read on first use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from tasks_lib.definitions import Definitions, StaticUrl
from tasks_lib.incremental.definition_cache import DefinitionCache
from tasks_lib.incremental.definition_files import load
from tasks_lib.incremental.resources import ReferencedFiles
from tasks_lib.settings import Settings

if TYPE_CHECKING:
    from tasks_lib.network import Headers


class ProjectFiles:
    """The files of the project of one session; `code` identifies the code that reads them."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], code: str) -> None:
        self._settings, self._code = settings, code
        self.references = ReferencedFiles(environ)

    @cached_property
    def cache(self) -> DefinitionCache:
        """The cache of parsed definitions."""
        settings = self._settings
        # parsed definitions contain paths in the notation of `fetchdefs`
        where = hashlib.sha256(b"absolute " if settings.fetchdefs.is_absolute() else b"")
        where.update(os.fsencode(settings.fetchdefs.absolute()))
        where.update(os.fsencode(settings.topsrcdir))
        path = settings.cache / f"definitions-{where.hexdigest()[:12]}.parsed"
        return DefinitionCache(path, self._code, settings.trust)

    @cached_property
    def definitions(self) -> Definitions:
        """All definitions.

        Raises:
            DefinitionError: lists every problem of every file.
        """
        own = self._settings
        return load(own.fetchdefs, self.cache, self.references, own.topsrcdir, own.platform)

    def load_headers(self) -> Mapping[str, Headers]:
        """Read the headers of all definitions from their files: the cache of parsed definitions has no values."""
        definitions = load(self._settings.fetchdefs, platform=self._settings.platform)
        sources = {name: fetch.source for name, fetch in definitions.fetches.items()}
        return {name: source.headers for name, source in sources.items() if isinstance(source, StaticUrl)}
