"""Properties of the losses."""

import math

import pytest
import torch

from spin.method.functions import FUNCTIONS, FunctionName, pair_loss
from spin.method.losses import (
    beta_on_summed_norm,
    denoising_error,
    implicit_accuracy,
    preference_loss,
    sft_loss,
)


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


def test_swapping_the_members_of_a_pair_negates_the_margin_and_the_two_losses_differ_by_its_argument() -> (
    None
):
    """l(x) - l(-x) = -x for the logistic l: the loss is a log likelihood of who is real."""
    errors = torch.rand(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    player_real, player_gen, opponent_real, opponent_gen = errors
    there = preference_loss(player_real, player_gen, opponent_real, opponent_gen, beta=6.0)
    back = preference_loss(player_gen, player_real, opponent_gen, opponent_real, beta=6.0)
    assert torch.equal(there.margin, -back.margin)
    assert (there.loss - back.loss).item() == pytest.approx(-3.0 * there.margin.mean().item())


# The convex functions

AT_ZERO = {
    "logistic": (math.log(2), -0.5),
    "hinge": (1.0, -1.0),
    "squared": (1.0, -2.0),
    "exponential": (1.0, -1.0),
    "correlation": (1.0, -1.0),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_has_its_documented_value_and_slope_at_zero(function: FunctionName) -> None:
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = pair_loss(margin, 2.0, function)  # beta 2: the argument is the margin itself
    (slope,) = torch.autograd.grad(loss, margin)
    assert (loss.item(), slope.item()) == pytest.approx(AT_ZERO[function])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_convex_and_falls_up_to_the_margin_it_aims_at(function: FunctionName) -> None:
    margin = torch.linspace(-5, 5, 201, dtype=torch.float64)
    loss = pair_loss(margin, 2.0, function)
    assert (loss.diff().diff() > -1e-12).all(), "convex"
    assert (loss[margin <= 1.0].diff() < 0).all(), "decreasing"
    if function != "squared":
        assert (loss.diff() <= 0).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_lowers_the_error_on_real_and_raises_it_on_generated(function: FunctionName) -> None:
    player = torch.rand(2, 8, requires_grad=True)
    opponent = player.detach() + 0.01 * torch.rand(2, 8)
    (gradient,) = torch.autograd.grad(preference_loss(*player, *opponent, 10.0, function).loss, player)
    assert (gradient[0] > 0).all()
    assert (gradient[1] < 0).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_gradient_is_the_slope_of_the_loss(function: FunctionName) -> None:
    """From predictions to loss, against finite differences in float64."""
    generator = torch.Generator().manual_seed(0)
    target, opponent = torch.randn(2, 4, 2, 2, 2, generator=generator, dtype=torch.float64)
    player = torch.randn(4, 2, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(prediction: torch.Tensor) -> torch.Tensor:
        mine, theirs = (denoising_error(side, target).chunk(2) for side in (prediction, opponent))
        return preference_loss(*mine, *theirs, beta=0.7, function=function).loss

    assert torch.autograd.gradcheck(loss, player)


def test_the_exact_weight_of_each_member_is_that_of_its_own_timestep() -> None:
    """Weighted errors in, weighted margin out: w_r (r_w - e_w) - w_g (r_l - e_l)."""
    errors = torch.rand(4, 8, dtype=torch.float64)
    weights = torch.rand(2, 8, dtype=torch.float64)
    weighted = errors * torch.cat([weights, weights])
    margin = preference_loss(*weighted, beta=1.0).margin
    by_hand = weights[0] * (errors[2] - errors[0]) - weights[1] * (errors[3] - errors[1])
    torch.testing.assert_close(margin, by_hand)


# The conventions of beta


def test_beta_5000_on_a_mean_is_0_305_on_the_summed_norm_of_sd_latents_and_half_that_in_the_papers_form() -> (
    None
):
    beta_t = beta_on_summed_norm(5000.0, 4 * 64 * 64)
    assert 2 * beta_t == pytest.approx(0.305, abs=2e-4), "with the factor one half left outside"
    assert beta_t == pytest.approx(0.1526, abs=1e-4)


def test_the_papers_summed_form_gives_the_same_loss() -> None:
    """l(-beta_t (||e - eps||^2 - ||e_k - eps||^2 - ||e' - eps'||^2 + ||e_k' - eps'||^2)), Yuan et al. 2024."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, 4, 8, 8)
    eps, eps_gen, player, player_gen, opponent, opponent_gen = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(6)
    )

    def norm(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (prediction - target).square().sum((1, 2, 3))

    beta_t = beta_on_summed_norm(20.0, 4 * 8 * 8)
    inside = -beta_t * (
        norm(player, eps) - norm(opponent, eps) - norm(player_gen, eps_gen) + norm(opponent_gen, eps_gen)
    )
    papers = torch.log1p(torch.exp(-inside)).mean()
    ours = preference_loss(
        denoising_error(player, eps),
        denoising_error(player_gen, eps_gen),
        denoising_error(opponent, eps),
        denoising_error(opponent_gen, eps_gen),
        beta=20.0,
    ).loss
    assert ours.item() == pytest.approx(papers.item(), rel=1e-12)
