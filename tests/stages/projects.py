"""A miniature project up to a stage, made in the test's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spin.params.schema import Params
from spin.stages.data import run_base, run_cache, run_data, run_prompt_set
from spin.stages.registry import run_register
from spin.stages.report import run_report, run_tables
from spin.stages.sample import run_generate, run_opponents
from spin.stages.score import run_reference, run_score
from spin.stages.train import run_train
from tests.models.adapters import LORA
from tests.models.tiny import miniature_params, write_params


def parameters(base: Path, **sections: dict[str, Any]) -> Params:
    """The miniature parameters with some keys of some sections changed: `parameters(base, training={...})`."""
    return Params.model_validate(raw_parameters(base, **sections))


def raw_parameters(base: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """As `parameters`, before validation."""
    raw = miniature_params(base)
    for name, changes in sections.items():
        for key, value in changes.items():
            raw[name][key] = raw[name][key] | value if isinstance(value, dict) and raw[name][key] else value
    return raw


def prepare(
    folder: Path, base: Path, iterations: Sequence[str] = ("iter1",), **sections: dict[str, Any]
) -> Path:
    """Make data, base, cache and the opponents of the iterations named in `folder`; `sections` as in `parameters`."""
    write_params(folder, raw_parameters(base, **sections))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = parameters(base, **sections)
        run_data(params)
        run_base(params)
        run_cache(params)
        for name in iterations:
            run_opponents(params, name)
    return folder


def finish(folder: Path, base: Path) -> Path:
    """Run every stage but `released`, `continual` and `code` in `folder`: one iteration, and a baseline that is an adapter."""
    raw = miniature_params(base)
    raw["data"] |= {"num_train": 8}
    raw["iterations"] = {"iter1": raw["iterations"]["iter1"]}
    raw["baselines"] = {"sft": raw["baselines"]["sft"]}
    raw["evaluate"] |= {"models": ["base", "sft", "iter1"]}
    raw["scorers"] = {name: raw["scorers"][name] for name in ("aesthetic", "oracle_psnr")}
    raw["tables"] |= {"average_of": ["aesthetic"], "over": ["base"], "bootstrap_samples": 20}
    write_params(folder, raw)
    params = Params.model_validate(raw)
    adapted = {**raw, "training": raw["training"] | {"lora": LORA.model_dump()}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (run_data, run_base, run_cache):
            stage(params)
        run_opponents(params, "iter1")
        run_train(params, "iter1")
        run_train(Params.model_validate(adapted), "sft")
        run_prompt_set(params, "test")
        for model in params.evaluate.models:
            run_generate(params, "test", model)
            run_score(params, "test", model)
        run_reference(params, "test", "clean")
        run_tables(params, "test")
        run_report(params)
        run_register(params)
    return folder
