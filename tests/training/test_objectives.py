"""Every kind of objective through a real training stage, on a tiny real model."""

import math
from pathlib import Path
from typing import Any

import pytest

from spin.params.schema import Params
from spin.runtime.files import sha256_tree
from spin.stages.data import run_base, run_cache, run_data
from spin.stages.sample import run_opponents
from spin.stages.train import run_train
from tests.models.tiny import miniature_params, write_params


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to the first iteration's opponents."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = parameters(folder, tiny_base)
        run_data(params)
        run_base(params)
        run_cache(params)
        run_opponents(params, "iter1")
    return folder


def parameters(folder: Path, base: Path, **objective: Any) -> Params:
    raw = miniature_params(base)
    raw["objective"] |= objective
    raw["iterations"]["iter1"]["num_steps"] = 3
    write_params(folder, raw)
    return Params.model_validate(raw)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "start", "extra"),
    [
        ({"kind": "exact", "timestep_weighting": "exact"}, math.log(2), set()),
        ({"timestep_weighting": "exact", "shared_noise": False}, math.log(2), set()),
        ({"function": "hinge", "loser_scale": 0.9, "reference": "random"}, 1.0, {"loser_scale", "repelled"}),
    ],
)
def test_every_objective_trains_and_starts_at_l_of_0(
    project: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: dict[str, Any],
    start: float,
    extra: set[str],
) -> None:
    monkeypatch.chdir(project)
    curve = run_train(parameters(project, tiny_base, **objective), "iter1")
    assert curve[0]["loss"] == pytest.approx(start, abs=1e-6)
    assert all(math.isfinite(value) for row in curve for value in row.values())
    told = {"error_real", "error_real_change", "error_gen", "error_gen_change", "margin", "implicit_accuracy"}
    assert told | extra <= set(curve[0])


@pytest.mark.slow
def test_training_by_the_exact_objective_twice_gives_the_same_bits(
    project: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    digests = set()
    for _ in range(2):
        run_train(parameters(project, tiny_base, kind="exact", timestep_weighting="exact"), "iter1")
        digests.add(sha256_tree(Path("outputs/checkpoints/iter1")))
    assert len(digests) == 1
