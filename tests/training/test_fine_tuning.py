"""Supervised fine-tuning needs its reference for the curve alone."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import spin.training.setup
from spin.params.objective import ObjectiveParams
from spin.training.setup import SFT_MEASURED_EVERY, make_objective, reference_of_update
from spin.training.steps import Objective, denoise
from tests.models.tiny import miniature_params
from tests.training.games import (
    denoiser,
    draw_real,
    fine_tuning,
    play,
    predict,
    schedule,
    weight_of,
)


def test_fine_tuning_measures_its_reference_at_some_updates_and_moves_the_same_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, reference = fine_tuning(SFT_MEASURED_EVERY + 2), denoiser(1).requires_grad_(False)

    def trained() -> tuple[list[int], Tensor]:
        player, calls = denoiser(), [0]
        hook = reference.register_forward_hook(lambda *_: calls.append(calls[-1] + 1))
        opponent_of = reference_of_update([reference], plan, 0, "sft")
        reports = play(
            player, plan=plan, objective=Objective(None), opponent_of=opponent_of, draw_batch=draw_real
        )
        hook.remove()
        measured = [int(report["step"]) - 1 for report in reports if "error_real_change" in report]
        assert calls[-1] == len(measured), "it ran for these alone"
        return measured, weight_of(player)

    measured, weight = trained()
    assert measured == [0, SFT_MEASURED_EVERY]
    assert all(later - earlier == 8 for earlier, later in pairwise(measured))
    monkeypatch.setattr(spin.training.setup, "SFT_MEASURED_EVERY", 1)
    always, same = trained()
    assert always == list(range(plan.num_steps))
    assert torch.equal(weight, same), "to the bit"


def test_min_snr_weights_the_loss_by_timestep_and_what_the_curve_says_of_errors_stays(tmp_path: Path) -> None:
    plan = fine_tuning(2).model_copy(update={"min_snr_gamma": 0.5})
    settings = ObjectiveParams.model_validate(miniature_params(tmp_path)["objective"])
    objective = make_objective(plan, settings, schedule(), "epsilon")
    assert objective.weights is not None
    snr = schedule().snr(torch.arange(1000))
    for predicted, by_hand in (
        ("epsilon", (0.5 / snr).clamp(max=1)),
        ("v_prediction", snr.clamp(max=0.5) / (snr + 1)),
    ):
        weights = make_objective(plan, settings, schedule(), predicted).weights
        torch.testing.assert_close(weights, by_hand)
    plain, weighted = (
        play(denoiser(), plan=plan, objective=each, draw_batch=draw_real)
        for each in (Objective(None), objective)
    )
    batch = draw_real(0)
    errors = denoise(predict, denoiser(), batch).real
    assert plain[0]["loss"] == pytest.approx(plain[0]["error_real"])
    assert weighted[0]["error_real"] == plain[0]["error_real"]
    expected = (objective.weights[batch.real.timesteps] * errors).mean().item()
    assert weighted[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert expected < errors.mean().item()
    assert make_objective(fine_tuning(2), settings, schedule(), "epsilon") == Objective(None), (
        "off by default"
    )
