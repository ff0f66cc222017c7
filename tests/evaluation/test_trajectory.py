"""Scores by iteration: differences to the base with paired bands, and a sentence that follows from them."""

import numpy as np
import pandas as pd
import pytest

from spin.evaluation.measures import measure
from spin.evaluation.results import Results
from spin.evaluation.trajectory import (
    Trajectory,
    draw_trajectory,
    steps_line,
    steps_of,
    trajectories_of,
)
from spin.params.schema import Params
from tests.evaluation.toy_params import params

MODELS = ("base", "sft", "iter1", "iter2")
COLOURS = dict.fromkeys(MODELS, "#222222")
PATH = Trajectory("SPIN by iteration", ("base", "iter1", "iter2"))


def results(gains: dict[str, float], num_prompts: int = 200) -> Results:
    """Scores whose prompts differ by far more than the models do."""
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 10, (num_prompts, 1))
    scores = [prompts + gains.get(model, 0.0) + rng.normal(0, 0.1, (num_prompts, 1)) for model in MODELS]
    ids = tuple(f"p{number:03d}" for number in range(num_prompts))
    return Results(
        models=MODELS, references=(), scorers=("hps", "average"), prompt_ids=ids, prompts=ids,
        categories=("",) * num_prompts, challenges=("",) * num_prompts, clusters=ids, scores=np.stack([np.repeat(each, 2, 1) for each in scores]),
        protocol={}, versions={}, flagged=0,
    )  # fmt: skip


def measured(gains: dict[str, float]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    tables = params().tables.model_copy(update={"average_of": ["hps"], "over": ["base"]})
    found = measure(results(gains), tables, 0, [("iter1", "base"), ("iter2", "iter1")])
    return found.comparisons, found.means, found.steps


def test_bands_are_of_the_paired_difference_and_start_at_the_base() -> None:
    comparisons, means, _ = measured({"iter1": 1.0, "iter2": 1.5, "sft": 0.5})
    for axes in draw_trajectory(comparisons, means, [PATH], COLOURS, []).axes:
        (curve,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert np.array(curve.get_ydata()) == pytest.approx([0, 1.0, 1.5], abs=0.05)
        band = axes.collections[0].get_paths()[0].vertices
        widths = [np.ptp(band[band[:, 0] == place, 1]) for place in range(3)]
        assert widths[0] == 0
        assert all(0 < width < 0.1 for width in widths[1:]), (
            "prompts spread by 10, the models' differences by 0.1"
        )
        assert axes.get_xlabel() == "iteration"


def test_the_sentence_says_of_each_step_what_its_interval_says() -> None:
    *_, steps = measured({"iter1": 1.0, "iter2": 1.0})
    said = steps_line(steps, 0.95)
    assert "SPIN iter 1 over Base +" in said
    assert said.count("a rise") == 1
    assert said.endswith("no change shown.")
    *_, steps = measured({"iter1": 1.0, "iter2": 0.5})
    assert steps_line(steps, 0.95).endswith("a fall.")


def test_released_iterations_are_a_path_of_their_own() -> None:
    raw = params().model_dump()
    released = {f"spin_iter{number}": {"source": f"a/b{number}", "revision": None} for number in (10, 2, 1)}
    raw["released"] = released | {"diffusion_dpo": {"source": "a/dpo", "revision": None}}
    raw["evaluate"]["models"] += list(raw["released"])
    both = Params.model_validate(raw)
    trained, published = trajectories_of(both)
    assert trained.models == ("base", *both.iterations)
    assert published.models == ("base", "spin_iter1", "spin_iter2", "spin_iter10")
    assert ("spin_iter10", "spin_iter2") in steps_of(both)
    assert ("spin_iter1", "base") in steps_of(both)


def test_iterations_that_part_are_paths_of_their_own() -> None:
    raw = params().model_dump()
    raw["iterations"]["iter2b"] = {**raw["iterations"]["iter2"], "prev": "iter1"}
    raw["evaluate"]["models"].append("iter2b")
    paths = trajectories_of(Params.model_validate(raw))
    assert [path.models for path in paths] == [
        ("base", "iter1", "iter2", "iter3"),
        ("base", "iter1", "iter2b"),
    ]
