"""The parameters that the fake scores are tabled with."""

from pathlib import Path
from typing import Any

from spin.params.schema import Params, load_params

PROFILE = Path(__file__).parents[2] / "profiles" / "toy.yaml"


def params(**evaluate: Any) -> Params:
    """The toy profile with a small bootstrap and its test prompts alone."""
    profile = load_params(PROFILE).model_dump()
    profile["prompt_sets"] = {"test": profile["prompt_sets"]["test"]}
    profile["evaluate"]["prompt_sets"] = ["test"]
    profile["tables"]["bootstrap_samples"] = 200
    profile["evaluate"] |= evaluate
    return Params.model_validate(profile)
