"""The parameters that the fake scores are tabled with."""

from pathlib import Path
from typing import Any

from spin.params.schema import Params, load_params

PROFILE = Path(__file__).parents[2] / "profiles" / "toy.yaml"


def params(**evaluate: Any) -> Params:
    """The toy profile with a small bootstrap."""
    profile = load_params(PROFILE).model_dump()
    profile["tables"]["bootstrap_samples"] = 200
    profile["evaluate"] |= evaluate
    return Params.model_validate(profile)
