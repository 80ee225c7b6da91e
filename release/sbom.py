"""The parts of a wheel and their licenses, as CycloneDX 1.6: `sbom.py WHEEL OUTPUT`.

What is inside (this library, the pictures of the example, NVIDIA's CUDA runtime where the CUDA library is there) and what it asks to
be installed beside it, with the licenses that the packages installed here declare.
"""

import hashlib
import importlib.metadata
import json
import re
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

CUDA_LIBRARY = "intraformer_fast/_C_cuda.so"


def sbom(wheel: Path) -> dict[str, Any]:
    """The document of a wheel.

    Raises:
        ValueError: it is no wheel.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = [name for name in names if name.endswith(".dist-info/METADATA")]
        if len(metadata) != 1:
            raise ValueError(f"{wheel} holds {len(metadata)} files METADATA: expected a wheel, which has one")
        header = HeaderParser().parsestr(archive.read(metadata[0]).decode())
    own = f"pkg:pypi/{header['Name']}@{header['Version']}"
    required = [text for text in header.get_all("Requires-Dist", []) if "extra ==" not in text]
    beside = [component(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in required]
    inside = [
        {
            "type": "data",
            "name": "glyphs.npz",
            "description": "28 x 28 pictures drawn by free fonts; bench/data/glyphs/licenses.txt names each package's license",
            "licenses": [
                {"license": {"name": "those of the fonts, see intraformer_fast/bench/data/glyphs/licenses.txt"}}
            ],
        },
        {
            "type": "data",
            "name": "emoji.npz",
            "description": "numbers computed from drawings; bench/data/emoji/licenses.txt names each package's license",
            "licenses": [{"license": {"id": "CC-BY-SA-4.0"}}],
        },
    ]
    if CUDA_LIBRARY in names:
        inside.append(
            {
                "type": "library",
                "name": "CUDA Runtime, statically linked into _C_cuda.so",
                "supplier": {"name": "NVIDIA"},
                "licenses": [{"license": {"name": "NVIDIA CUDA Toolkit EULA (redistributable, Attachment A)"}}],
            }
        )
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": own,
                "purl": own,
                "name": header["Name"],
                "version": header["Version"],
                "licenses": [{"expression": header["License-Expression"]}],
                "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
            }
        },
        "components": [*inside, *beside],
        "dependencies": [{"ref": own, "dependsOn": [part["bom-ref"] for part in beside]}],
    }


def component(name: str) -> dict[str, Any]:
    """A package that is installed here, by what it says of itself."""
    header = importlib.metadata.metadata(name)
    version = importlib.metadata.version(name)
    reference = f"pkg:pypi/{name.lower()}@{version.partition('+')[0]}"
    return {
        "type": "library",
        "bom-ref": reference,
        "purl": reference,
        "name": name,
        "version": version,
        "scope": "required",
        "licenses": licenses(header),
    }


def licenses(header: Any) -> list[dict[str, Any]]:
    """What a package declares: an expression, classifiers, or a short name; nothing where it declares nothing."""
    if expression := header["License-Expression"]:
        return [{"expression": expression}]
    classified = [
        text.rpartition(" :: ")[2] for text in header.get_all("Classifier", []) if text.startswith("License ::")
    ]
    declared = classified or (header["License"] or "").strip().splitlines()[:1]
    return [{"license": {"name": name}} for name in declared]


def shown(license: dict[str, Any]) -> str:
    """A license of a part in words: an expression, SPDX's identifier or a name."""
    return license.get("expression") or license["license"].get("id") or license["license"]["name"]


if __name__ == "__main__":
    found = sbom(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for part in found["components"]:
        words = "; ".join(map(shown, part["licenses"])) or "declares no license"
        print(f"{part['name']} {part.get('version', '')}: {words}".replace(" :", ":"))
