"""Bills of materials in the format of CycloneDX, written by cyclonedx-python-lib (extra `sbom`).

Source: https://cyclonedx.org/docs/1.6/json/ and https://cyclonedx.org/docs/1.7/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.component_evidence import AnalysisTechnique, ComponentEvidence, Identity, IdentityField, Method
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from tasks_lib.pins.materials import Material

_VERSIONS = {"1.6": SchemaVersion.V1_6, "1.7": SchemaVersion.V1_7}


def write_cyclonedx(materials: Sequence[Material], *, version: str, tool: str, created_s: int, identity: str) -> str:
    """Return the bill of materials as JSON; the same arguments give the same text.

    `version` is that of the format, "1.6" or "1.7"; `tool` that of this package. `created_s` counts from 1970.
    `identity` is a hex digest of the content, from which the serial number is made.
    """
    program = Component(name="doit-fetch", type=ComponentType.APPLICATION, version=tool, bom_ref="doit-fetch")
    metadata = BomMetaData(tools=ToolRepository(components=[program]), timestamp=datetime.fromtimestamp(created_s, UTC))
    consumers = {name: _consumer(name) for name in sorted({one for each in materials for one in each.consumers})}
    components = {material.name: _component(material) for material in materials}
    bom = Bom(
        components=[*components.values(), *consumers.values()],
        metadata=metadata,
        serial_number=uuid.UUID(hex=identity[:32], version=5),
    )
    for name, consumer in consumers.items():
        bom.register_dependency(consumer, [components[one.name] for one in materials if name in one.consumers])
    for name, component in components.items():
        bom.register_dependency(component, [components[one.name] for one in materials if one.whole == name])
    text = make_outputter(bom, OutputFormat.JSON, _VERSIONS[version]).output_as_string(indent=2)
    return f"{text}\n"


def _consumer(name: str) -> Component:
    return Component(
        name=name,
        type=ComponentType.APPLICATION,
        bom_ref=f"toolchain:{name}",
        properties=[Property(name="doit-fetch:kind", value="toolchain")],
    )


def _component(material: Material) -> Component:
    digests = [HashType(alg=HashAlgorithm.SHA_256, content=material.sha256)] if material.sha256 else []
    kind = ExternalReferenceType.VCS if material.commit else ExternalReferenceType.DISTRIBUTION
    facts = {
        "size": str(material.size) if material.size >= 0 else "",
        "file": material.file_name,
        "definition": material.place,
        "commit": material.commit,
    }
    properties = [Property(name=f"doit-fetch:{name}", value=value) for name, value in facts.items() if value]
    properties += [Property(name="doit-fetch:evidence", value=text) for text in material.evidence]
    properties += [Property(name="doit-fetch:consumer", value=name) for name in material.consumers]
    return Component(
        name=material.purl.name if material.purl.kind != "generic" else material.name,
        group=material.purl.namespace or None,
        version=material.version or None,
        type=ComponentType.LIBRARY,
        description=material.description,
        bom_ref=f"fetch:{material.name}",
        purl=_package_url(material),
        hashes=digests,
        licenses=[LicenseFactory().make_from_string(material.licence)] if material.licence else [],
        external_references=[ExternalReference(type=kind, url=XsUri(url), hashes=digests) for url in material.urls],
        properties=properties,
        evidence=_evidence(material),
    )


def _package_url(material: Material) -> PackageURL | None:
    """Return the package URL, None if the library does not accept the one that a definition has."""
    try:
        return PackageURL.from_string(str(material.purl))
    except ValueError:
        return None


def _evidence(material: Material) -> ComponentEvidence | None:
    if not material.sha256:
        return None
    method = Method(
        technique=AnalysisTechnique.HASH_COMPARISON, confidence=Decimal(1), value=f"sha256:{material.sha256}"
    )
    return ComponentEvidence(identity=[Identity(field=IdentityField.HASH, confidence=Decimal(1), methods=[method])])
