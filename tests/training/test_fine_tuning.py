"""Supervised fine-tuning needs its reference for the curve alone."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import spin.training.setup
from spin.training.setup import SFT_MEASURED_EVERY, reference_of_update
from spin.training.steps import Objective
from tests.training.games import (
    denoiser,
    draw_real,
    fine_tuning,
    play,
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
