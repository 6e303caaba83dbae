"""The bill of materials of an image, as CycloneDX: what is in it, whose it is, under which licences."""

import uuid
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from provider.sandbox.image import interpreter, libraries
from provider.sandbox.image.contents import PACKAGES, PROJECT, Contents

_NAMESPACE = uuid.UUID("6f1c2a64-9f0b-5d0e-8a53-0c6f2f6c5b11")


def bill_of_materials(contents: Contents, image_id: str) -> dict[str, Any]:
    """Python packages, the Debian packages that own the rest, and every file with its digest."""
    system = {name: path for name, path in contents.files.items() if not name.startswith((PACKAGES, PROJECT))}
    owners = libraries.owners(sorted(set(system.values()), key=str))
    names = sorted(set(owners.values()))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, image_id)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": image_id,
                "name": f"clawmarket/{contents.recipe.name}",
                "version": contents.digest,
            }
        },
        "components": [
            *(_python_package(package) for package in contents.packages),
            *(_debian_package(libraries.debian_package(name)) for name in names),
            *(_file(name, contents.digests[name], owners.get(path)) for name, path in contents.files.items()),
        ],
    }


def _python_package(package: Distribution) -> dict[str, Any]:
    name = package.metadata["Name"].lower().replace("_", "-")
    reference = f"pkg:pypi/{name}@{package.version}"
    return {
        "type": "library",
        "bom-ref": reference,
        "purl": reference,
        "name": name,
        "version": package.version,
        "licenses": [{"license": {"name": interpreter.licence_of(package)}}],
    }


def _debian_package(package: libraries.DebianPackage) -> dict[str, Any]:
    reference = f"pkg:deb/debian/{package.name}@{package.version}?arch={package.architecture}"
    return {
        "type": "library",
        "bom-ref": reference,
        "purl": reference,
        "name": package.name,
        "version": package.version,
        "licenses": [{"license": {"name": name}} for name in package.licences or ("NOASSERTION",)],
    }


def _file(name: str, digest: str, owner: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": "file",
        "name": f"/{Path(name)}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    if owner:
        described["properties"] = [{"name": "clawmarket:debian-package", "value": owner}]
    return described
