"""Batches of the exact objective: a function of the update, as the sampler draws, and no dearer than asked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spin.errors import ParamsError
from spin.method.exact import draw_chain_noise, opponent_trajectory
from spin.models.conditioning import square_geometry
from spin.models.flops import flop_of_prediction
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.objective import ObjectiveParams
from spin.params.sampling import SamplerParams
from spin.params.schema import Params
from spin.sampling.sampler import Guidance, sample_latents
from spin.seeding import generator_for
from spin.training.chains import Chain, ChainBatch, open_chain
from spin.training.steps import eps_predictor
from tests.models.tiny import miniature_params
from tests.training.stepping import EXACT, PROMPTS, chain_batch, objective, step, training_set


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
            "compile": False,
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
