"""What the original code of the reward models gave, at reduced size: $SPIN_FIXTURES, or ../shared/fixtures."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

FIXTURES = Path(os.environ.get("SPIN_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures"))

needs_originals = pytest.mark.skipif(
    not (FIXTURES / "inputs" / "inputs.json").is_file(),
    reason=f"no parity fixtures in {FIXTURES}; set SPIN_FIXTURES",
)


def expected(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / name / "expected.json").read_text())


def intermediates(name: str) -> dict[str, Tensor]:
    return load_file(FIXTURES / name / "intermediates.safetensors")


def real_size_keys(name: str) -> dict[str, str]:
    lines = (FIXTURES / name / "real_size_keys.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines if line.strip())
