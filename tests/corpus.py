"""At least one archive for every row of accepted and refused input (docs/archives.md), with its exact outcome.

The names are the common names of such faults.
"""

from __future__ import annotations

from tests import corpus_compressed, corpus_names, corpus_tar, corpus_zip
from tests.cases import CASES

__all__ = ["CASES", "corpus_compressed", "corpus_names", "corpus_tar", "corpus_zip"]
