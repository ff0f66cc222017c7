"""The model registry: a version for each iteration, the best of them the champion."""

from pathlib import Path

from spin.params.schema import Params


def run_register(params: Params) -> None:
    """List the iterations as model versions, with what each is and how it did."""
    from spin.tracking.registry import register_models

    register_models(params, Path.cwd())
