"""Bills of materials in the format of SPDX 2.3, as JSON. Pure: no I/O.

Source: https://spdx.github.io/spdx-spec/v2.3/ , sections 6 (document), 7 (packages), 11 (relationships).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from tasks_lib.pins.materials import Material

_UNKNOWN: Final = "NOASSERTION"
#: The most frequent licences; another one is in the comment of its package. Source: https://spdx.org/licenses/
_LICENCES: Final = frozenset({
    "0BSD", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "EPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC",
    "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0",
    "Python-2.0", "Unicode-3.0", "Unlicense", "Zlib",
})  # fmt: skip
_DOCUMENT: Final = "SPDXRef-DOCUMENT"


def write_spdx(materials: Sequence[Material], *, tool: str, created_s: int, identity: str) -> str:
    """Return the bill of materials as JSON; the same arguments give the same text.

    `tool` is the version of this package, `created_s` counts from 1970, `identity` is a hex digest of the content,
    which names the document.
    """
    consumers = sorted({name for material in materials for name in material.consumers})
    created = datetime.fromtimestamp(created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": "fetches",
        "documentNamespace": f"urn:doit-fetch:sbom:{identity}",
        "creationInfo": {"created": created, "creators": [f"Tool: doit-fetch-{tool}"]},
        "packages": [*map(_package, materials), *map(_consumer, consumers)],
        "relationships": list(_relationships(materials, consumers)),
    }
    return json.dumps(document, indent=2) + "\n"


def _identifier(kind: str, name: str) -> str:
    """Return a unique identifier of letters, digits, `.` and `-`; other characters become their code."""
    return f"SPDXRef-{kind}-" + re.sub(r"[^A-Za-z0-9.]", lambda found: f"-{ord(found[0]):x}-", name)


def _package(material: Material) -> dict[str, Any]:
    comments = [*material.evidence, f"defined in {material.place}"]
    comments += [f"{material.size} bytes"] if material.size >= 0 else []
    comments += [f"declares the licence {material.licence}"] if material.licence else []
    comments += [f"also at {url}" for url in material.urls[1:]]
    comments += [f"used by toolchain {name}" for name in material.consumers]
    place = _download_location(material)
    purl = {
        "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": str(material.purl),
    }  # fmt: skip
    package: dict[str, Any] = {
        "SPDXID": _identifier("fetch", material.name),
        "name": material.name,
        "summary": material.description,
        "downloadLocation": place,
        "packageFileName": material.file_name,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": material.licence if _is_expression(material.licence) else _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "externalRefs": [purl],
        "comment": "\n".join(comments),
    }
    if material.version:
        package["versionInfo"] = material.version
    if material.sha256:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": material.sha256}]
    return package


def _is_expression(licence: str) -> bool:
    """Return whether a licence is an expression of identifiers that SPDX knows."""
    words = re.findall(r"[^\s()]+", licence)
    return bool(words) and all(
        word in ("AND", "OR") if index % 2 else word in _LICENCES for index, word in enumerate(words)
    )


def _download_location(material: Material) -> str:
    """Return the location. Source: section 7.7: a URL, or `git+URL@COMMIT`."""
    url = material.urls[0]
    if not re.match(r"(?:https?|ssh|git)://", url):
        return _UNKNOWN
    if not material.commit:
        return url
    tool = "hg" if "hg%2B" in str(material.purl) or "hg+" in str(material.purl) else "git"
    return f"{tool}+{url}@{material.commit}"


def _consumer(name: str) -> dict[str, Any]:
    return {
        "SPDXID": _identifier("toolchain", name),
        "name": name,
        "downloadLocation": "NONE",
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "comment": "toolchain",
    }


def _relationships(materials: Sequence[Material], consumers: Sequence[str]) -> Iterator[dict[str, str]]:
    def relate(one: str, kind: str, other: str) -> dict[str, str]:
        return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}

    for material in materials:
        yield relate(_DOCUMENT, "DESCRIBES", _identifier("fetch", material.name))
    for name in consumers:
        yield relate(_DOCUMENT, "DESCRIBES", _identifier("toolchain", name))
    for material in materials:
        for name in material.consumers:
            fetch, toolchain = _identifier("fetch", material.name), _identifier("toolchain", name)
            yield relate(fetch, "BUILD_DEPENDENCY_OF", toolchain)
        if material.whole:
            yield relate(_identifier("fetch", material.whole), "CONTAINS", _identifier("fetch", material.name))
