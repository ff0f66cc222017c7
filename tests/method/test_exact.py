"""Properties of the exact objective, on a small random network in float64."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from spin.method.exact import (
    Trajectories,
    exact_gradient,
    step_errors,
)
from spin.method.functions import FUNCTIONS, FunctionName, pair_loss
from spin.method.losses import beta_on_summed_norm
from tests.method.chains import (
    SCHEDULE,
    SHAPE,
    TinyDenoiser,
    backward,
    game,
    gradients,
    predictor,
    whole_loss,
)


def test_loss_is_log_2_when_the_player_equals_the_opponent_and_pulls() -> None:
    _, opponent, chain, drawn = game()
    result = exact_gradient(predictor(opponent, chain), drawn, chain, 5000.0, "logistic", backward)
    assert result.loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert (result.margin == 0).all()
    assert any(gradient.abs().max() > 0 for gradient in gradients(opponent))


def test_the_margin_is_the_papers_sum_over_means_of_the_chain() -> None:
    """beta / 2 * margin = -sum_t lambda / (2 s_t^2) D_t with every mu, s and norm written out."""
    player, opponent, chain, drawn = game(shared=True)
    beta, size = 3.0, math.prod(SHAPE)
    result = exact_gradient(predictor(player, chain), drawn, chain, beta, "logistic", backward)
    weight = 2 * beta_on_summed_norm(beta, size) / 2  # beta / (2 C H W)
    alphas = [SCHEDULE.alphas_cumprod[timestep] for timestep in chain.timesteps] + [
        SCHEDULE.alphas_cumprod[0]
    ]
    total, weights = torch.zeros(4, dtype=torch.float64), 0.0
    for step, (alpha, below) in enumerate(pairwise(alphas)):
        s2 = (1 - below) / (1 - alpha) * (1 - alpha / below)
        h = (below / alpha).sqrt() * (1 - alpha).sqrt() - (1 - below - s2).sqrt()
        weights += (h**2 / (2 * s2)).item()
        x_t, x_below = drawn.latents[step], drawn.latents[step + 1]

        def norm(
            denoiser: nn.Module,
            x_t: Tensor = x_t,
            x_below: Tensor = x_below,
            alpha: Tensor = alpha,
            below: Tensor = below,
            s2: Tensor = s2,
            step: int = step,
        ) -> Tensor:
            eps = predictor(denoiser, chain)(x_t, step)
            mu = (
                below.sqrt() * (x_t - (1 - alpha).sqrt() * eps) / alpha.sqrt() + (1 - below - s2).sqrt() * eps
            )
            return (x_below - mu).square().sum((1, 2, 3)).detach()

        real, gen = (norm(player) - norm(opponent)).chunk(2)
        total += (real - gen) / (2 * s2)  # D_t / (2 s_t^2)
    torch.testing.assert_close(0.5 * beta * result.margin, -weight / weights * total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_two_passes_give_the_gradient_of_the_whole_sum(function: FunctionName) -> None:
    player, _, chain, drawn = game()
    beta = 0.5
    result = exact_gradient(predictor(player, chain), drawn, chain, beta, function, backward)
    loss = whole_loss(player, chain, drawn, beta, function)
    wanted = torch.autograd.grad(loss, list(player.parameters()))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    for got, one in zip(gradients(player), wanted, strict=True):
        torch.testing.assert_close(got, one, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """Against finite differences of the reported loss, along a random direction in the weights."""
    player, _, chain, drawn = game()
    exact_gradient(predictor(player, chain), drawn, chain, 2.0, "logistic", backward)
    directions = [torch.randn_like(parameter) for parameter in player.parameters()]
    slope = sum((g * d).sum() for g, d in zip(gradients(player), directions, strict=True))

    def loss_at(distance: float) -> float:
        moved = TinyDenoiser(0).double()
        with torch.no_grad():
            for parameter, direction in zip(moved.parameters(), directions, strict=True):
                parameter += distance * direction
        return exact_gradient(
            predictor(moved, chain), drawn, chain, 2.0, "logistic", lambda *_: None
        ).loss.item()

    assert float(slope) == pytest.approx((loss_at(1e-5) - loss_at(-1e-5)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("beta", [0.1, 2.0, 10.0])
def test_the_approximate_objective_is_never_less_than_the_exact_one(
    function: FunctionName, beta: float
) -> None:
    """Jensen; the expectation over the timestep is taken by going through all of them."""
    player, _, chain, drawn = game(steps=8)
    exact = exact_gradient(predictor(player, chain), drawn, chain, beta, function, lambda *_: None).loss
    terms = []
    for step in range(len(chain.s)):
        real, gen = step_errors(predictor(player, chain), drawn, chain, step).change.chunk(2)
        terms.append(pair_loss(gen - real, beta, function).mean())
    approximate = torch.stack(terms).mean()
    assert approximate >= exact - 1e-12
    if function == "correlation":
        assert approximate.item() == pytest.approx(exact.item()), "equal for a straight line"
    elif function != "hinge":
        assert approximate > exact * (1 + 1e-6)


def test_the_approximate_objective_on_the_chains_grid_has_the_same_scale() -> None:
    """With the weights of the chain, the mean over timesteps of the margin is the exact margin itself."""
    player, _, chain, drawn = game(steps=8)
    exact = exact_gradient(predictor(player, chain), drawn, chain, 1.0, "logistic", lambda *_: None)
    margins = []
    for step in range(len(chain.s)):
        real, gen = step_errors(predictor(player, chain), drawn, chain, step).change.chunk(2)
        margins.append((gen - real).detach())
    torch.testing.assert_close(torch.stack(margins).mean(0), exact.margin)
    torch.testing.assert_close(exact.change_gen - exact.change_real, exact.margin)


def test_only_the_last_part_of_the_gradient_is_called_the_last() -> None:
    """Several processes average what has been added up when it comes."""
    player, _, chain, drawn = game()
    calls: list[bool] = []
    exact_gradient(
        predictor(player, chain), drawn, chain, 1.0, "logistic", lambda _, last: calls.append(last)
    )
    assert calls == [False] * (len(chain.timesteps) - 1) + [True]


def test_the_gradient_flows_under_autocast_too() -> None:
    player, _, chain, drawn = game()
    player.float()
    single = Trajectories(drawn.latents.float(), drawn.opponent_eps.float())
    grown: Callable[[Tensor, bool], None] = backward
    with torch.autocast("cpu", torch.bfloat16):
        exact_gradient(predictor(player, chain), single, chain, 2.0, "logistic", grown)
    in_half = [gradient.clone() for gradient in gradients(player)]
    player.zero_grad()
    exact_gradient(predictor(player, chain), single, chain, 2.0, "logistic", grown)
    for half, full in zip(in_half, gradients(player), strict=True):
        torch.testing.assert_close(half, full, rtol=0.1, atol=0.05 * full.abs().max().item())
