"""Properties of one micro-batch, on a tiny real model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spin.errors import NonFiniteError, ParamsError
from spin.method.exact import draw_chain_noise, opponent_trajectory
from spin.method.losses import preference_loss
from spin.models.checkpoint import load_model, reference_of
from spin.models.conditioning import Conditioning, square_geometry
from spin.models.flops import flop_of_prediction
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.model import BaseParams
from spin.params.objective import ObjectiveParams
from spin.params.sampling import SamplerParams
from spin.params.schema import Params
from spin.runtime.files import write_json
from spin.sampling.sampler import Guidance, sample_latents
from spin.seeding import generator_for
from spin.training.batches import Batch, BatchSource, Noised
from spin.training.chains import Chain, ChainBatch, draw_chain_batch, open_chain
from spin.training.examples import Flips, Rows, TrainingSet
from spin.training.steps import Objective, Report, denoise, eps_predictor, micro_step
from tests.models.tiny import miniature_params

PROMPTS = ["a red circle left of a blue square on white", "a green square above a red circle on black", ""]
PLAIN = {
    "kind": "approximate",
    "function": "logistic",
    "timestep_weighting": "constant",
    "shared_noise": True,
    "loser_scale": None,
    "reference": "previous",
}
EXACT = {**PLAIN, "kind": "exact", "timestep_weighting": "exact"}


@pytest.fixture(scope="module")
def diffusion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    base = BaseParams(source=str(tiny_base), revision=None, config=None, unet=None)
    write_json(checkpoint / "model.json", reference_of(base))
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def opponent(diffusion: LatentDiffusion) -> nn.Module:
    return diffusion.denoiser.eval().requires_grad_(False)


@pytest.fixture
def player(opponent: nn.Module) -> nn.Module:
    """The opponent, moved a little at random."""
    moved = type(opponent).from_config(opponent.config)  # type: ignore[attr-defined]
    moved.load_state_dict(opponent.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return moved


def encoded(diffusion: LatentDiffusion, captions: Sequence[str]) -> Conditioning:
    """Text as it comes from the cache: ordinary tensors."""
    return {name: tensor.clone() for name, tensor in diffusion.encode_prompts(captions).items()}


def make_batch(
    diffusion: LatentDiffusion, *, separate: bool = False, dtype: torch.dtype = torch.float32
) -> Batch:
    """Three pairs of random latents; `separate` gives the members their own timestep and noise."""
    schedule, generator = diffusion.noise_schedule, torch.Generator().manual_seed(5)
    draws = torch.randn(4, 3, 4, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    timesteps = torch.tensor([10, 400, 900])

    def noised(x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Noised:
        target = schedule.target(diffusion.prediction_type, x_0, eps, timesteps)
        return Noised(schedule.add_noise(x_0, eps, timesteps), target, timesteps, schedule.times(timesteps))

    real = noised(draws[0], draws[2], timesteps)
    gen = noised(draws[1], draws[3 if separate else 2], timesteps.flip(0) if separate else timesteps)
    return Batch(real, gen, encoded(diffusion, PROMPTS))


def objective(diffusion: LatentDiffusion, beta: float = 20.0, **changes: Any) -> Objective:
    objective = ObjectiveParams.model_validate({**PLAIN, **changes})
    return Objective.of(objective, beta, diffusion.noise_schedule, diffusion.prediction_type)


def step(
    diffusion: LatentDiffusion,
    player: nn.Module,
    opponent: nn.Module,
    batch: Batch | ChainBatch,
    objective: Objective,
) -> tuple[Report, Tensor]:
    """Report and gradient (all parameters in one vector) of a micro-batch."""
    player.zero_grad()
    report = micro_step(diffusion.predict, player, opponent, batch, objective, lambda loss: loss.backward())  # type: ignore[no-untyped-call]
    return report, torch.cat([p.grad.flatten() for p in player.parameters() if p.grad is not None]).clone()


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


def opponent_to_player(player: nn.Module, opponent: nn.Module) -> nn.Module:
    """The opponent's weights in a network that can be trained."""
    copy: nn.Module = type(player).from_config(player.config)  # type: ignore[attr-defined]
    copy.load_state_dict(opponent.state_dict())
    return copy


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
        return micro_step(diffusion.predict, player, opponent, batch, target, lambda _: None)["loss"]

    ahead, behind = loss_at(1e-6), loss_at(-2e-6)
    assert (gradient @ direction).item() == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)


def test_a_loss_that_is_not_finite_is_refused_before_any_gradient(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    calls: list[Tensor] = []
    with torch.no_grad():
        next(player.parameters()).fill_(math.nan)
    for batch in (make_batch(diffusion), chain_batch(diffusion, Chain.of(diffusion, 2))):
        with pytest.raises(NonFiniteError, match="must be finite, got nan; the update was not applied"):
            micro_step(diffusion.predict, player, opponent, batch, Objective(1.0), calls.append)
    assert not calls


# The exact objective


def training_set(diffusion: LatentDiffusion, num_rows: int = 6) -> TrainingSet:
    """Random posteriors under three captions."""
    latents = torch.randn(num_rows, 4, 8, 8, generator=torch.Generator().manual_seed(9))

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        posterior = latents[list(rows)], torch.full((len(rows), 4, 8, 8), -4.0)
        captions = [PROMPTS[row % len(PROMPTS)] for row in rows]
        return Rows(posterior, posterior, captions, square_geometry(len(rows), 32))

    return TrainingSet(num_rows, fetch, lambda captions: encoded(diffusion, captions))


def chain_batch(
    diffusion: LatentDiffusion, chain: Chain, *, shared: bool = True, update: int = 0
) -> ChainBatch:
    raw = miniature_params(Path("unused"))
    params = Params.model_validate(raw).training
    examples, schedule = training_set(diffusion), diffusion.noise_schedule
    source = BatchSource(examples, diffusion, schedule, params, shared, 0, "iter1")
    return draw_chain_batch(source, chain, update)


def test_a_chain_batch_is_a_function_of_the_update(diffusion: LatentDiffusion) -> None:
    chain = Chain.of(diffusion, 3)
    first, again, later = (chain_batch(diffusion, chain, shared=False, update=update) for update in (0, 0, 1))
    assert torch.equal(first.noise_gen, again.noise_gen)
    assert torch.equal(first.x_0, again.x_0)
    assert not torch.equal(first.noise_gen, later.noise_gen)
    assert not torch.equal(first.noise_gen, first.noise_real)
    shared = chain_batch(diffusion, chain)
    assert torch.equal(shared.noise_gen, shared.noise_real)


def test_micro_batches_of_chains_give_the_gradient_of_the_whole(
    diffusion: LatentDiffusion, player: nn.Module, opponent: nn.Module
) -> None:
    batch = chain_batch(diffusion, Chain.of(diffusion, 3), shared=False)
    target = objective(diffusion, 0.5, **EXACT)
    whole, gradient = step(diffusion, player, opponent, batch, target)
    parts = [step(diffusion, player, opponent, part, target) for part in batch.micro_batches(2)]
    assert len(parts) == 2
    assert abs(whole["margin"]) > 1e-4, "the player is measured against the opponent, not against itself"
    assert whole["loss"] == pytest.approx(sum(report["loss"] for report, _ in parts) / 2, rel=1e-5)
    torch.testing.assert_close(gradient, (parts[0][1] + parts[1][1]) / 2, rtol=1e-3, atol=1e-5)


def test_the_recomputed_trajectory_ends_on_the_image_the_sampler_draws_from_the_same_seed(
    diffusion: LatentDiffusion, opponent: nn.Module
) -> None:
    chain = Chain.of(diffusion, 4)
    sampler = SamplerParams.model_validate(
        {
            "scheduler": "ddim",
            "num_inference_steps": 4,
            "guidance_scale": 1.0,
            "eta": 1.0,
            "precision": "fp32",
            "batch_size": 3,
        }
    )
    text, geometry = diffusion.encode_prompts(PROMPTS), square_geometry(3, 32)

    def streams() -> list[torch.Generator]:
        return [generator_for("opponent", 0, "iter1", place) for place in range(3)]

    drawn = sample_latents(
        diffusion, Guidance(text, diffusion.encode_prompts([""]), geometry), streams(), sampler, 32
    )
    noise = draw_chain_noise(streams(), (4, 8, 8), chain.transitions)
    batch = ChainBatch(drawn, noise, noise, diffusion.with_geometry(text, geometry), chain)
    levels, _ = opponent_trajectory(
        eps_predictor(diffusion.predict, opponent, batch), noise, chain.transitions
    )
    torch.testing.assert_close(levels[-1], drawn, rtol=1e-3, atol=1e-3)


def test_the_exact_objective_asks_its_cost_first(diffusion: LatentDiffusion) -> None:
    data = training_set(diffusion)
    cost = flop_of_prediction(diffusion, data.text([""]), 32)
    assert 1e6 < cost < 1e8, "a network of some ten thousand weights on 8 x 8 latents"
    params = Params.model_validate(miniature_params(Path("unused")))
    chain = open_chain(diffusion, data, params, num_updates=4)
    assert len(chain.transitions.timesteps) == params.opponents.num_inference_steps
    with pytest.raises(ParamsError, match=r"objective\.kind: exact must cost at most"):
        open_chain(diffusion, data, params, num_updates=10**12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"timestep_weighting": "constant"},
            "timestep_weighting must be exact with kind exact, got constant",
        ),
        ({"loser_scale": 0.9}, "loser_scale must be null with kind exact, got 0.9"),
        ({"reference": "random"}, "reference must be previous with kind exact, got random"),
    ],
)
def test_settings_that_the_exact_objective_would_ignore_are_refused(
    change: dict[str, Any], message: str
) -> None:
    ObjectiveParams.model_validate(EXACT)
    with pytest.raises(ValueError, match=message):
        ObjectiveParams.model_validate({**EXACT, **change})
