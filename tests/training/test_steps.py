"""Properties of one micro-batch, on a tiny real model."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from spin.method.losses import preference_loss
from spin.models.latent_diffusion import LatentDiffusion
from spin.training.chains import Chain
from spin.training.steps import Objective, denoise, micro_step
from tests.training.stepping import (
    EXACT,
    PLAIN,
    chain_batch,
    make_batch,
    objective,
    opponent_to_player,
    step,
)


def test_the_papers_choices_are_diffusion_dpos_loss(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    batch = make_batch(diffusion)
    mine, theirs = (denoise(diffusion.predict, side, batch) for side in (player, opponent))
    assert mine.gen is not None
    assert theirs.gen is not None
    loss = preference_loss(mine.real, mine.gen, theirs.real, theirs.gen, 20.0).loss
    wanted = torch.autograd.grad(loss, [p for p in player.parameters() if p.requires_grad], allow_unused=True)
    for one in (objective(diffusion), Objective(20.0)):
        report, gradient = step(diffusion, player, opponent, batch, one)
        assert report["loss"] == loss.item(), "to the bit"
        assert torch.equal(gradient, torch.cat([part.flatten() for part in wanted if part is not None]))
    assert report["error_real"] == mine.real.mean().item()
    assert report["error_gen_change"] == pytest.approx((mine.gen - theirs.gen).mean().item())


def test_every_kind_starts_at_log_2_and_reports_the_same_names(
    diffusion: LatentDiffusion, opponent: nn.Module, player: nn.Module
) -> None:
    player.load_state_dict(opponent.state_dict())
    chain = Chain.of(diffusion, 3)
    names = []
    for batch, changes in ((make_batch(diffusion), PLAIN), (chain_batch(diffusion, chain), EXACT)):
        report, gradient = step(diffusion, player, opponent, batch, objective(diffusion, 2000.0, **changes))
        assert report["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert report["margin"] == pytest.approx(0.0, abs=1e-9)
        assert report["implicit_accuracy"] == 0.0
        assert gradient.abs().max() > 0
        names.append(set(report))
    assert names[0] == names[1]


def test_exact_weights_follow_each_members_own_timestep(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    batch = make_batch(diffusion, separate=True)
    assert batch.gen is not None
    weights = diffusion.noise_schedule.timestep_weights("epsilon").float()
    mine, theirs = (denoise(diffusion.predict, side, batch) for side in (player, opponent))
    assert mine.gen is not None
    assert theirs.gen is not None
    margin = weights[[10, 400, 900]] * (theirs.real - mine.real)
    margin = margin - weights[[900, 400, 10]] * (theirs.gen - mine.gen)
    report, _ = step(diffusion, player, opponent, batch, objective(diffusion, timestep_weighting="exact"))
    assert report["margin"] == pytest.approx(margin.mean().item(), rel=1e-5)
    assert report["loss"] == pytest.approx(
        -torch.nn.functional.logsigmoid(10.0 * margin).mean().item(), rel=1e-5
    )
    assert report["error_real"] == mine.real.mean().item(), "reported errors are not weighted"


def test_the_loser_scale_changes_the_gradient_and_not_the_loss(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    batch = make_batch(diffusion)
    plain, plain_gradient = step(diffusion, player, opponent, batch, objective(diffusion))
    mild, mild_gradient = step(diffusion, player, opponent, batch, objective(diffusion, loser_scale=0.001))
    strong, strong_gradient = step(diffusion, player, opponent, batch, objective(diffusion, loser_scale=0.99))
    assert plain["loss"] == mild["loss"] == strong["loss"]
    assert 0 < strong["loser_scale"] < mild["loser_scale"] <= 1
    scale = strong["loser_scale"]
    # The gradient is linear in the scale: what is left of it at 0 comes from the real images.
    real_part = (strong_gradient - scale * plain_gradient) / (1 - scale)
    torch.testing.assert_close(
        mild_gradient,
        real_part + mild["loser_scale"] * (plain_gradient - real_part),
        rtol=1e-2,
        atol=1e-5,
    )
    assert "loser_scale" not in plain


def test_an_opponent_better_at_real_images_attracts_under_the_sign_rule(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    batch = make_batch(diffusion)
    mine, theirs = (denoise(diffusion.predict, side, batch) for side in (player, opponent))
    assert mine.gen is not None
    assert theirs.gen is not None
    sign = torch.where(mine.real <= theirs.real, 1.0, -1.0)
    margin = (theirs.real - mine.real) - sign * (theirs.gen - mine.gen)
    report, _ = step(diffusion, player, opponent, batch, objective(diffusion, reference="random"))
    assert report["margin"] == pytest.approx(margin.mean().item(), rel=1e-4, abs=1e-7)
    assert report["repelled"] == pytest.approx((sign > 0).float().mean().item())
    turned, _ = step(
        diffusion,
        opponent_to_player(player, opponent),
        player,
        batch,
        objective(diffusion, reference="random"),
    )
    assert turned["repelled"] == pytest.approx(1.0 - report["repelled"])


def test_supervised_fine_tuning_reports_no_pairs(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    batch = make_batch(diffusion)._replace(gen=None)
    report, _ = step(diffusion, player, opponent, batch, Objective(None))
    assert report["loss"] == report["error_real"]
    assert set(report) == {"loss", "error_real", "error_real_change"}


def test_the_gradient_of_a_step_is_the_slope_of_its_loss(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    """Through the whole network in float64, along a random direction in its weights."""
    player, opponent = player.double(), opponent_to_player(player, opponent).double()
    batch = make_batch(diffusion, separate=True, dtype=torch.float64)
    target = objective(diffusion, function="exponential", timestep_weighting="exact")
    target = replace(target, beta=0.5)
    _, gradient = step(diffusion, player, opponent, batch, target)
    trained = [p for p in player.parameters() if p.grad is not None]
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            for parameter, part in zip(trained, direction.split([p.numel() for p in trained]), strict=True):
                parameter += distance * part.reshape(parameter.shape)
        return micro_step(diffusion.predict, player, opponent, batch, target, lambda *_: None)["loss"].item()

    ahead, behind = loss_at(1e-6), loss_at(-2e-6)
    assert (gradient @ direction).item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)
