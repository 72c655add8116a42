"""What the images and the plugin are made of may be passed on as they are: permissive licences, each known by name."""

import re
from importlib.metadata import PackageNotFoundError, metadata

import pytest

from tests.support.stack import ROOT

ALLOWED = frozenset(("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"))
# How packages without a License-Expression (PEP 639) say it.
SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
NOWHERE = frozenset(("colorama", "httpx2-jsfetch", "pywin32"))
"""Only on systems that this is never installed on: Windows, and a browser."""


def locked(lock: str) -> list[str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", text, re.MULTILINE)


def licences(package: str) -> set[str]:
    """Every licence that the package's own metadata names; of alternatives, too."""
    found = metadata(package)
    if "License-Expression" in found:
        expression = found["License-Expression"]
        return set(re.split(r"\s+(?:AND|OR|WITH)\s+", expression.replace("(", "").replace(")", "")))
    classifiers = [
        text.rpartition(" :: ")[2] for text in found.get_all("Classifier", []) if text.startswith("License ::")
    ]
    said = [text for text in classifiers if text != "OSI Approved"] or found.get_all("License", [])
    return {SPELLINGS.get(text, text) for text in said}


@pytest.mark.parametrize("lock", ["proxy", "operator", "plugin"])
def test_everything_that_is_shipped_has_a_licence_that_is_known(lock: str) -> None:
    packages = [package for package in locked(lock) if package not in NOWHERE]
    assert len(packages) > 5
    odd = {package: named for package in packages if not (named := licences(package)) or not named <= ALLOWED}
    assert odd == {}


def test_a_package_without_a_licence_would_be_seen() -> None:
    with pytest.raises(PackageNotFoundError):
        licences("no-such-package")
    assert not {"Proprietary", "GPL-3.0-only", ""} & ALLOWED
