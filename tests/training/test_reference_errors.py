"""Errors of the reference computed once are those that the updates would compute, and the reference is gone."""

from pathlib import Path
from typing import Any

import pytest
import torch

import spin.stages.train
import spin.training.reference_errors
from spin.training.loop import Recipe
from tests.stages.projects import parameters
from tests.training.running import LOG_2, LORA, assert_same, trained

Curve = list[dict[str, float]]
MEASURED = ("loss", "margin", "error_real", "error_gen", "error_real_change", "error_gen_change")


def drawn(base: Path, draws: int, objective: dict[str, Any] | None = None, **training: Any) -> Any:
    """The miniature parameters: 4 updates of 4 visit 12 rows once and 4 of them twice."""
    return parameters(base, objective=objective or {}, training={"reference_draws": draws, **training})


def live(params: Any, name: str = "iter1") -> tuple[dict[str, torch.Tensor], Curve]:
    """Trained on the same draws with the reference asked at every visit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spin.stages.train, "keep_reference_errors", lambda _, recipe, *rest: patched(recipe))
        return trained(params, name)


def patched(recipe: Recipe) -> Recipe:
    """The recipe with a reference of its own: the stage empties the list of those it has."""
    reference = recipe.opponent_of(0)
    return Recipe(**{**vars(recipe), "opponent_of": lambda _: reference})


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "spin": ("iter1", {}, {}),
    "dpo": ("dpo", {}, {}),
    "dropped captions": ("iter1", {}, {"caption_dropout": 0.5}),
    "noise of its own for each member, in halves": (
        "iter1",
        {"shared_noise": False},
        {"micro_batch_size": 2},
    ),
    "an adapter": ("iter1", {}, {"lora": LORA}),
    "bf16": ("iter1", {}, {"precision": "bf16"}),
    "weights and a guard": ("iter1", {"timestep_weighting": "exact", "loser_scale": 0.5}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_where_no_draw_comes_again_training_is_the_same_to_the_bit(
    inside: Path, tiny_base: Path, case: str
) -> None:
    name, objective, changes = CASES[case]
    params = drawn(tiny_base, 2, objective, **changes)
    (weights, curve), (wanted, wanted_curve) = trained(params, name), live(params, name)
    assert_same(weights, wanted)
    assert curve == wanted_curve
    assert (curve[0]["loss"], curve[0]["margin"]) == (LOG_2, 0.0)
    assert curve[1]["margin"] != 0.0
