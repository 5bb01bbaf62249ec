"""The page that lists the claims lists those that are tested, and to what each does not apply.

Run: python -m pytest -m citizen tests/citizen/test_claims.py
"""

import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.citizen
HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "citizens.md"


def claims():
    """Each claim in words -> why it does not apply to some."""
    found = {}
    for path in sorted(HERE.glob("test_*.py")):
        for name, test in vars(importlib.import_module(path.stem)).items():
            if name.startswith("test_") and test.__module__ == path.stem and path.stem != "test_claims":
                without = getattr(test, "without", {})
                found[name.removeprefix("test_").replace("_", " ")] = [
                    f"`{model}`: {reason}" for model, reason in without.items()
                ]
    return found


def test_every_claim_has_its_line_with_the_models_that_it_leaves_out():
    rows = re.findall(r"^\| ([^|]+) \|([^|]*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {claim.strip(): left_out.strip() for claim, left_out in rows if claim != "claim"}
    expected = {claim: "; ".join(reasons) for claim, reasons in claims().items()}
    assert listed == expected
