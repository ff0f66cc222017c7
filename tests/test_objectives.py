"""Properties of the losses."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spin.objectives import denoising_error, implicit_accuracy, preference_loss, sft_loss


def test_loss_is_log_2_when_the_player_equals_the_opponent() -> None:
    real, gen = torch.rand(2, 16)
    result = preference_loss(real, gen, real, gen, beta=5000.0)
    assert result.loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert (result.margin == 0).all()


def test_the_case_worked_by_hand_in_the_docstring() -> None:
    errors = [torch.tensor([value], dtype=torch.float64) for value in (0.09, 0.13, 0.10, 0.12)]
    result = preference_loss(*errors, beta=100.0)
    assert result.margin.item() == pytest.approx(0.02)
    assert result.loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_gradient_lowers_error_on_real_and_raises_it_on_generated() -> None:
    player = torch.rand(2, 8, requires_grad=True)
    opponent = torch.rand(2, 8)
    (gradient,) = torch.autograd.grad(preference_loss(*player, *opponent, beta=10.0).loss, player)
    assert (gradient[0] > 0).all(), "descent must lower the player's error on real images"
    assert (gradient[1] < 0).all(), "descent must raise the player's error on generated images"


def test_margin_carries_no_gradient() -> None:
    player = torch.rand(2, 8, requires_grad=True)
    assert not preference_loss(*player, *torch.rand(2, 8), beta=10.0).margin.requires_grad


def test_every_pair_pulls_less_the_further_it_is_won() -> None:
    opponent = torch.ones(3, dtype=torch.float64)
    player = torch.tensor([1.1, 1.0, 0.9], dtype=torch.float64, requires_grad=True)  # lost, even, won
    (gradient,) = torch.autograd.grad(
        preference_loss(player, opponent, opponent, opponent, 20.0).loss, player
    )
    assert gradient[0] > gradient[1] > gradient[2] > 0


def test_the_mean_is_taken_over_losses_not_inside_the_sigmoid() -> None:
    errors = torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])  # margins +1 and -1
    loss = preference_loss(*errors, beta=2.0).loss.item()
    assert loss == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2, rel=1e-6)


def test_errors_of_half_precision_predictions_are_taken_in_fp32() -> None:
    prediction = torch.full((1, 4, 8, 8), 1.0, dtype=torch.bfloat16)
    target = torch.full((1, 4, 8, 8), 0.999)
    error = denoising_error(prediction, target)
    assert error.dtype == torch.float32
    assert error.item() == pytest.approx(1e-6, rel=1e-3), "bf16 would have rounded the difference to zero"


def test_the_error_does_not_depend_on_the_size_of_the_latents() -> None:
    small, large = torch.full((2, 4, 8, 8), 0.5), torch.full((2, 4, 64, 64), 0.5)
    assert torch.equal(denoising_error(small, 0 * small), denoising_error(large, 0 * large))


def test_implicit_accuracy_counts_only_pairs_that_are_told_apart() -> None:
    assert implicit_accuracy(torch.tensor([0.1, 0.0, -0.1, 0.2])).item() == 0.5


def test_sft_is_the_mean_error_on_real_images() -> None:
    assert sft_loss(torch.tensor([1.0, 3.0])).item() == 2.0


def test_independent_dpo_code_gives_the_same_loss_gradient_and_accuracy(shared: Path) -> None:
    folder = shared / "fixtures" / "dpo_loss"
    expected = json.loads((folder / "expected.json").read_text())
    tensors = load_file(folder / "tensors.safetensors")
    for name, case in expected["cases"].items():
        wanted = case["variants"]["salesforce"]
        model_pred = tensors[f"{name}.model_pred"].double().requires_grad_()
        target = tensors[f"{name}.target"].double()
        player = denoising_error(model_pred, target).chunk(2)  # first half winners
        opponent = denoising_error(tensors[f"{name}.ref_pred"].double(), target).chunk(2)
        result = preference_loss(*player, *opponent, beta=case["beta"])
        (gradient,) = torch.autograd.grad(result.loss, model_pred)
        assert result.loss.item() == pytest.approx(wanted["loss"], rel=1e-9, abs=1e-9), name
        assert implicit_accuracy(result.margin).item() == pytest.approx(wanted["implicit_acc_salesforce"]), (
            name
        )
        torch.testing.assert_close(
            gradient, tensors[f"{name}.grad.salesforce"].double(), rtol=1e-6, atol=1e-9
        )
