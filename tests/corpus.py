"""One archive at least for every row of what is accepted and refused (docs/archives.md), with its exact outcome.

The names are those under which such faults are known.
"""

from __future__ import annotations

from tests import corpus_compressed, corpus_names, corpus_tar, corpus_zip
from tests.cases import CASES

__all__ = ["CASES", "corpus_compressed", "corpus_names", "corpus_tar", "corpus_zip"]
