"""Properties of the recipe: what an update draws, how its gradient adds up, how the weights then move."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spin.models.conditioning import Conditioning, square_geometry
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.training import StageParams
from spin.seeding import randn_rows
from spin.training.batches import BatchSource, draw_batch, draw_latents, draw_timesteps, drop_captions
from spin.training.examples import Flips, Rows, TrainingSet
from spin.training.optim import make_lr_scheduler, make_optimizer
from spin.training.steps import Objective
from tests.training.games import (
    ROWS,
    denoiser,
    draw_real,
    iteration,
    play,
    tiny_diffusion,
    training_params,
    weight_of,
)

CPU = torch.device("cpu")
MANY = 20_000


@pytest.fixture(scope="module")
def diffusion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tiny_base, tmp_path_factory.mktemp("checkpoint"))


def streams(count: int, seed: int = 0) -> list[torch.Generator]:
    """One generator in all places: its draws are independent."""
    return [torch.Generator().manual_seed(seed)] * count


# What is drawn


@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_training_latents_have_the_posteriors_mean_and_deviation_or_are_its_mean(
    diffusion: LatentDiffusion, deviation: float
) -> None:
    mean = torch.full((MANY, 1, 1, 1), 2.0)
    posterior = mean, torch.full_like(mean, math.log(deviation**2))
    drawn = diffusion.unscale(
        draw_latents(posterior, diffusion, training_params(sample_posterior=True), streams(MANY))
    )
    assert drawn.mean().item() == pytest.approx(2.0, abs=5 * deviation / math.sqrt(MANY))
    assert drawn.std().item() == pytest.approx(deviation, rel=0.03)
    by_hand = 2.0 + deviation * randn_rows(streams(MANY), (1, 1, 1))
    torch.testing.assert_close(drawn, by_hand, rtol=1e-4, atol=1e-4)
    means = draw_latents(posterior, diffusion, training_params(sample_posterior=False), streams(MANY))
    assert torch.equal(means, diffusion.scale(mean))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_the_share_of_captions_asked_for_is_emptied_whatever_they_say(share: float) -> None:
    captions = [f"caption {row}" for row in range(MANY)]
    dropped = [not caption for caption in drop_captions(captions, share, streams(MANY))]
    assert sum(dropped) / MANY == pytest.approx(share, abs=0.015 if 0 < share < 1 else 0)
    others = drop_captions(["another"] * MANY, share, streams(MANY))
    assert [not caption for caption in others] == dropped
    kept = zip(captions, drop_captions(captions, share, streams(MANY)), strict=True)
    assert all(after in ("", before) for before, after in kept)


def test_uniform_timesteps_visit_every_one_equally_often() -> None:
    counts = torch.bincount(draw_timesteps(10, "uniform", streams(20 * MANY)), minlength=10)
    assert len(counts) == 10, "none is T or above"
    assert (counts / (2 * MANY) - 1).abs().max() < 0.03


@pytest.mark.parametrize("total", [3, 1000])
def test_logit_normal_timesteps_have_a_standard_normal_logit(total: int) -> None:
    """The share below t is Phi(logit(t / T)), at every t."""
    drawn = draw_timesteps(total, "logit_normal", streams(10 * MANY))
    assert drawn.dtype == torch.int64
    assert drawn.min() >= 0
    assert drawn.max() < total
    below = torch.bincount(drawn, minlength=total).cumsum(0)[:-1] / (10 * MANY)
    expected = torch.special.ndtr((torch.arange(1, total) / total).logit())
    assert (below - expected).abs().max() < 0.006


def set_of(rows: int) -> TrainingSet:
    """Certain posteriors, told apart by their value, with a caption each."""

    def fetch(chosen: Sequence[int], flips: Flips | None) -> Rows:
        mean = torch.tensor(chosen).float().reshape(-1, 1, 1, 1).expand(-1, 4, 8, 8)
        posterior = mean, torch.full_like(mean, -60.0)
        return Rows(
            posterior, posterior, [f"caption {row}" for row in chosen], square_geometry(len(chosen), 32)
        )

    def text(captions: Sequence[str]) -> Conditioning:
        lengths = torch.tensor([len(caption) for caption in captions])
        return {"lengths": lengths, "encoder_hidden_states": torch.zeros(len(captions), 16, 16)}

    return TrainingSet(rows, fetch, text)


def source_of(diffusion: LatentDiffusion, shared_noise: bool = True, **training: Any) -> BatchSource:
    params, process = training_params(**training), diffusion.noise_schedule
    places = range(params.batch_size)
    return BatchSource(set_of(12), diffusion, process, params, shared_noise, 0, "iter1", places)


@pytest.mark.parametrize("shared", [True, False])
def test_each_process_draws_its_own_places_of_the_one_batch(diffusion: LatentDiffusion, shared: bool) -> None:
    whole = source_of(diffusion, shared, caption_dropout=0.5, batch_size=4)
    halves = [replace(whole, places=range(start, start + 2)) for start in (0, 2)]
    for step in (0, 5):
        both, *parts = (draw_batch(source, step) for source in (whole, *halves))
        assert both.gen is not None
        for number, part in enumerate(parts):
            rows = slice(2 * number, 2 * number + 2)
            assert part.gen is not None
            for one, other in zip((*part.real, *part.gen), (*both.real, *both.gen), strict=True):
                assert torch.equal(one, other[rows])
            assert torch.equal(part.conditioning["lengths"], both.conditioning["lengths"][rows])


@pytest.mark.parametrize("shared", [True, False])
def test_the_members_of_a_pair_share_timestep_and_noise_or_each_has_its_own(
    diffusion: LatentDiffusion, shared: bool
) -> None:
    batch = draw_batch(source_of(diffusion, shared), 0)
    assert batch.gen is not None
    assert torch.equal(batch.real.timesteps, batch.gen.timesteps) == shared
    assert torch.equal(batch.real.target, batch.gen.target) == shared, "the target of this base is the noise"
    assert (batch.gen.target - batch.real.target).std().item() == pytest.approx(
        0 if shared else 2**0.5, abs=0.1
    )


def test_dropout_empties_the_caption_that_both_members_are_told(diffusion: LatentDiffusion) -> None:
    for share, lengths in ((0.0, {9, 10}), (1.0, {0})):
        told = draw_batch(source_of(diffusion, caption_dropout=share), 0).conditioning["lengths"]
        assert set(told.tolist()) <= lengths


# How the gradient adds up


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_any_micro_batch_gives_the_update_and_the_report_of_the_whole_batch(micro_batch: int) -> None:
    moved, reports = [], []
    for size in (ROWS, micro_batch):
        player = denoiser()
        sgd = torch.optim.SGD(player.parameters(), lr=1.0)
        reports += play(player, micro_batch=size, optimizer=sgd)
        moved.append(weight_of(player) - weight_of(denoiser()))
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-4, atol=1e-6)
    assert reports[1] == pytest.approx(reports[0], rel=1e-4)
    assert reports[0]["grad_norm"] == pytest.approx(moved[0].norm().item(), rel=1e-4)


@pytest.mark.parametrize("limit", [0.01, 0.5, 100.0])
def test_the_applied_gradient_is_no_longer_than_max_grad_norm_and_keeps_its_direction(limit: float) -> None:
    player, batch = denoiser(), draw_real(0)
    loss = (player(batch.real.x_t) - batch.real.target).square().mean()
    (gradient,) = torch.autograd.grad(loss, player.get_parameter("weight"))
    before = weight_of(player)
    sgd = torch.optim.SGD(player.parameters(), lr=1.0)
    (report,) = play(
        player, optimizer=sgd, objective=Objective(None), draw_batch=draw_real, max_grad_norm=limit
    )
    assert report["grad_norm"] == pytest.approx(gradient.norm().item()), "reported before clipping"
    expected = -gradient * min(1.0, limit / gradient.norm().item())
    torch.testing.assert_close(weight_of(player) - before, expected, rtol=1e-4, atol=1e-7)


# How the weights move


def rates(how: str, warmup: int, num_steps: int) -> list[float]:
    """By hand: up in equal steps from 0, then level, or down to 0 after the last update in a line or half a cosine."""
    left = [max(0, step - warmup) / (num_steps - warmup) for step in range(num_steps)]
    after = {
        "constant": [1.0 for _ in left],
        "linear": [1.0 - done for done in left],
        "cosine": [0.5 * (1.0 + math.cos(math.pi * done)) for done in left],
    }[how]
    return [0.5 * (step / warmup if step < warmup else after[step]) for step in range(num_steps)]


@pytest.mark.parametrize("how", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_learning_rate_of_every_update_is_the_plans(how: str, warmup: int) -> None:
    reports = play(denoiser(), training=training_params(lr_scheduler=how), plan=iteration(8, warmup))
    assert [report["learning_rate"] for report in reports] == pytest.approx(rates(how, warmup, 8))
    assert [report["step"] for report in reports] == list(range(1, 9))


def adamw(weight: Tensor, plan: StageParams, betas: tuple[float, float], eps: float, decay: float) -> Tensor:
    """Algorithm 2 of Loshchilov and Hutter 2019 on supervised fine-tuning's loss, in float64."""
    first = second = torch.zeros_like(weight)
    for step, rate in enumerate(rates("linear", plan.warmup_steps, plan.num_steps)):
        leaf = weight.clone().requires_grad_()
        real = draw_real(step).real
        error = nn.functional.conv2d(real.x_t.double(), leaf) - real.target.double()
        (gradient,) = torch.autograd.grad(error.square().mean(), leaf)
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        mean, square = first / (1 - betas[0] ** (step + 1)), second / (1 - betas[1] ** (step + 1))
        weight = weight - rate * (mean / (square.sqrt() + eps) + decay * weight)
    return weight


def test_every_update_is_adamws_with_the_betas_eps_decay_and_warm_up_asked_for() -> None:
    player, plan = denoiser(), iteration(num_steps=5, warmup_steps=2)
    expected = adamw(weight_of(player).double(), plan, betas=(0.5, 0.8), eps=0.05, decay=0.3)
    asked = {"adam_betas": [0.5, 0.8], "adam_eps": 0.05, "weight_decay": 0.3, "lr_scheduler": "linear"}
    play(
        player, training=training_params(**asked), plan=plan, objective=Objective(None), draw_batch=draw_real
    )
    torch.testing.assert_close(weight_of(player).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_schedule_ends_at_0_after_the_last_update_and_adafactor_decays_too() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.zeros(2, 2)
    params = training_params(optimizer="adafactor", weight_decay=0.1, lr_scheduler="linear")
    optimizer = make_optimizer([parameter], 0.5, params, CPU)
    scheduler = make_lr_scheduler(optimizer, iteration(num_steps=1), params)
    optimizer.step()
    assert parameter.detach().flatten().tolist() == pytest.approx([0.95] * 4)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.0


# Supervised fine-tuning's reference
