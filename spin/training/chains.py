"""The training batch of the exact objective: clean images and the noise of their chains.

Like `spin.training.batches` a function of (seed, stage, update, place) alone. The opponent draws a new trajectory at every visit of a
pair, so the images drawn beforehand are not needed; its expectation is the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spin.method.exact import draw_chain_noise, require_affordable
from spin.method.schedule import NoiseSchedule
from spin.method.transitions import Transitions
from spin.models.conditioning import Conditioning, pinned, take, to_device
from spin.models.flops import flop_of_prediction
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.schema import Params
from spin.training.batches import BatchSource, draw_latents, drop_captions
from spin.training.examples import TrainingSet


@dataclass(frozen=True)
class Chain:
    """The reverse chain and how a prediction becomes an eps along it."""

    schedule: NoiseSchedule
    prediction_type: str
    transitions: Transitions

    @classmethod
    def of(cls, diffusion: LatentDiffusion, num_inference_steps: int) -> "Chain":
        """DDIM's at eta = 1. Raises `ParamsError` for a model whose schedule has no such chain."""
        schedule = diffusion.noise_schedule
        transitions = Transitions.of_sampler(schedule, diffusion.scheduler_config, num_inference_steps)
        return cls(schedule, diffusion.prediction_type, transitions)


class ChainBatch(NamedTuple):
    """Clean images with the noise that their trajectories and the opponent's are drawn with."""

    x_0: Tensor
    """(B, C, h, w) fp32: real latents."""
    noise_real: Tensor
    """(K + 1, B, C, h, w) fp32."""
    noise_gen: Tensor
    """(K + 1, B, C, h, w) fp32; `noise_real` itself where the members of a pair share their noise."""
    conditioning: Conditioning
    """Rows (B, ...)."""
    chain: Chain

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.x_0)

    def micro_batches(self, size: int) -> Iterator["ChainBatch"]:
        """Split into consecutive parts of `size` rows."""
        for start in range(0, self.num_rows, size):
            rows = slice(start, start + size)
            yield ChainBatch(
                self.x_0[rows],
                self.noise_real[:, rows],
                self.noise_gen[:, rows],
                take(self.conditioning, rows),
                self.chain,
            )

    def to(self, device: torch.device) -> "ChainBatch":
        """Move every tensor."""
        return ChainBatch(
            self.x_0.to(device, non_blocking=True),
            self.noise_real.to(device, non_blocking=True),
            self.noise_gen.to(device, non_blocking=True),
            to_device(self.conditioning, device),
            self.chain,
        )

    def pinned(self) -> "ChainBatch":
        """In memory that a GPU reads by itself, while the host goes on."""
        x_0, real, gen = (each.pin_memory() for each in (self.x_0, self.noise_real, self.noise_gen))
        return ChainBatch(x_0, real, gen, pinned(self.conditioning), self.chain)


def draw_chain_batch(chain: Chain, source: BatchSource, step: int) -> ChainBatch:
    """Make this process's places of the batch of update `step` (from 0) on the CPU."""
    examples, generators = source.examples(step), source.generators("noise", step)
    x_0 = draw_latents(examples.real, source.diffusion, source.params, generators)
    captions = drop_captions(examples.captions, source.params.caption_dropout, generators)

    def noise(side: str) -> Tensor:
        return draw_chain_noise(
            source.generators(f"chain {side}", step), tuple(x_0.shape[1:]), chain.transitions
        )

    noise_gen = noise("gen")
    noise_real = noise_gen if source.shared_noise else noise("real")
    conditioning = source.conditioning(captions, examples.geometry)
    return ChainBatch(x_0, noise_real, noise_gen, conditioning, chain)


def open_chain(
    diffusion: LatentDiffusion, training_set: TrainingSet, params: Params, num_updates: int
) -> Chain:
    """The chain of an iteration under the exact objective, with as many steps as the opponents are sampled with.

    Raises `ParamsError` for a model that has no such chain, and where the iteration would cost too much.
    """
    chain = Chain.of(diffusion, params.opponents.num_inference_steps)
    require_affordable(
        params.training.batch_size * num_updates,
        len(chain.transitions.timesteps),
        flop_of_prediction(diffusion, training_set.text([""]), params.resolution),
    )
    return chain
