"""A tiny denoiser on a short chain, for the exact objective."""

import torch
from torch import Tensor, nn

from spin.method.exact import (
    PredictEps,
    Trajectories,
    draw_trajectories,
    step_errors,
)
from spin.method.functions import FunctionName, pair_loss
from spin.method.schedule import NoiseSchedule
from spin.method.transitions import Transitions

SD = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


SHAPE = (2, 4, 4)


SCHEDULE = NoiseSchedule.from_scheduler_config(SD)


class TinyDenoiser(nn.Module):
    """A random network that knows its timestep."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner, self.outer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x_t: Tensor, time: float) -> Tensor:
        """(B, 2, H, W) at time in [0, 1] -> (B, 2, H, W)."""
        clock = torch.full_like(x_t[:, :1], time)
        out: Tensor = self.outer(torch.tanh(self.inner(torch.cat([x_t, clock], 1))))
        return out


def predictor(denoiser: nn.Module, chain: Transitions) -> PredictEps:
    return lambda x_t, step: denoiser(x_t, chain.timesteps[step].item() / 1000)


def chain_of(steps: int) -> Transitions:
    return Transitions.of_sampler(SCHEDULE, SD, steps)


def game(
    steps: int = 6, pairs: int = 4, shared: bool = False
) -> tuple[nn.Module, nn.Module, Transitions, Trajectories]:
    """A player, its opponent, the chain and both trajectories of a few pairs."""
    player, opponent = TinyDenoiser(0).double(), TinyDenoiser(1).double()
    chain = chain_of(steps)
    generator = torch.Generator().manual_seed(7)
    x_0 = torch.randn(pairs, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, steps + 1, pairs, *SHAPE, generator=generator, dtype=torch.float64)
    drawn = draw_trajectories(predictor(opponent, chain), x_0, noise[0], noise[0 if shared else 1], chain)
    return player, opponent, chain, drawn


def whole_loss(
    player: nn.Module, chain: Transitions, drawn: Trajectories, beta: float, function: FunctionName
) -> Tensor:
    """The loss with all steps in one graph."""
    changes = [
        step_errors(predictor(player, chain), drawn, chain, step).change for step in range(len(chain.s))
    ]
    real, gen = torch.stack(changes).mean(0).chunk(2)
    return pair_loss(gen - real, beta, function).mean()


def gradients(denoiser: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in denoiser.parameters() if parameter.grad is not None]
    assert len(found) == 4
    return found


def backward(loss: Tensor, last: bool) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
