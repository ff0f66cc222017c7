"""SPIN's exact objective: whole trajectories inside l (Yuan et al. 2024, arXiv:2402.10210).

For a reverse chain of K steps (see `spin.method.transitions`), with x the real image's trajectory under the forward process
and x' the opponent's own, drawn with the opponent's network and no guidance:

    L = mean of l( -sum_t lambda / (2 s_t^2) D_t )
    D_t = ||x_below - mu_player(x_t)||^2 - ||x_below - mu_opponent(x_t)||^2 - (the same with x')

x_below - mu(x_t) is h_t (eps_pred - eps*) exactly, with eps* the eps whose mu is x_below. So with errors E as in
`spin.method.losses`, but against eps*, and w_t = h_t^2 / (2 s_t^2) scaled to a mean of one over the K steps:

    margin = mean over t of w_t { [E(opponent, x_t) - E(player, x_t)] - [E(opponent, x'_t) - E(player, x'_t)] }
    L      = mean of l(beta / 2 * margin),   lambda = beta / (2 C H W sum_t h_t^2 / (2 s_t^2))

The approximate objective takes l at each timestep's margin and averages; l is convex, so by Jensen it is never less.

The sum has to be known before any of its terms can be differentiated, so this goes over the trajectories twice:
without gradient for the margins and l', then step by step, each step's graph freed before the next. Memory does not
grow with K but for the trajectories: 4 K + 2 latents per pair, and their noise. The cost is 10 K forwards per pair:
the opponent's 2 K, the player's 2 K without gradient, and its 2 K with gradient, which count three times.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spin.errors import ParamsError
from spin.method.functions import FunctionName, pair_loss
from spin.method.losses import denoising_error
from spin.method.transitions import Transitions
from spin.seeding import randn_rows

PredictEps = Callable[[Tensor, int], Tensor]
"""(x_t (n B, C, H, W), step number) -> eps_pred in fp32 or more; its rows are n times those of the batch, in turn."""

MAX_FLOP = 1e18
"""Training by the exact objective is refused above this: about an hour of a datacentre GPU in bf16."""
OVERRIDE = "SPIN_EXACT_TFLOP"
"""Environment variable with another limit in TFLOP, or "none". In the environment, since what one can afford is no part of
the method and must not make a finished training stale."""


class Trajectories(NamedTuple):
    """Both chains of a batch and what the opponent predicts along them; real rows before generated ones."""

    latents: Tensor
    """(K + 1, 2B, C, H, W), noisiest first."""
    opponent_eps: Tensor
    """(K, 2B, C, H, W)."""


class ExactLoss(NamedTuple):
    """What one batch of trajectories gives; detached, as the gradient is already where it belongs."""

    loss: Tensor
    """()."""
    margin: Tensor
    """(B,)."""
    error_real: Tensor
    """(B,): weighted error of the player on the real trajectory, mean over t; eps* carries the noise of the chain, so
    even a perfect network's is far from 0."""
    error_gen: Tensor
    """(B,): the same on the opponent's trajectory."""
    change_real: Tensor
    """(B,): `error_real` less the opponent's."""
    change_gen: Tensor
    """(B,): `error_gen` less the opponent's."""


def draw_chain_noise(
    generators: Sequence[torch.Generator], shape: tuple[int, ...], transitions: Transitions
) -> Tensor:
    """The start and the noise of every step, (K + 1, B, *shape) fp32, each row from its own generator.

    In the order in which `spin.sampling.sampler` draws: a generator that starts as the opponent's did gives its trajectory.
    """
    return torch.stack([randn_rows(generators, shape) for _ in range(len(transitions.timesteps) + 1)])


@torch.no_grad()
def real_trajectory(x_0: Tensor, noise: Tensor, transitions: Transitions) -> Tensor:
    """Draw x_K, ..., x_0's level from q(x_{1:K} | x_0): (B, C, H, W), (K + 1, B, C, H, W) -> (K + 1, B, C, H, W)."""
    levels = [transitions.signal[0].item() * x_0 + transitions.noise[0].item() * noise[0]]
    for step in range(len(transitions.timesteps)):
        eps = transitions.eps_in(step, levels[-1], x_0)
        mean = transitions.mu(step, levels[-1], eps)
        levels.append(mean + transitions.s[step].item() * noise[step + 1])
    return torch.stack(levels)


@torch.no_grad()
def opponent_trajectory(
    opponent: PredictEps, noise: Tensor, transitions: Transitions
) -> tuple[Tensor, Tensor]:
    """The opponent's reverse chain from noise (K + 1, B, C, H, W): its levels, so shaped, and its eps (K, B, C, H, W)."""
    levels, predictions = [noise[0]], []
    for step in range(len(transitions.timesteps)):
        predictions.append(opponent(levels[-1], step))
        mean = transitions.mu(step, levels[-1], predictions[-1])
        levels.append(mean + transitions.s[step].item() * noise[step + 1])
    return torch.stack(levels), torch.stack(predictions)


@torch.no_grad()
def draw_trajectories(
    opponent: PredictEps, x_0: Tensor, noise_real: Tensor, noise_gen: Tensor, transitions: Transitions
) -> Trajectories:
    """Both chains of a batch, from x_0 (B, C, H, W) and noise (K + 1, B, C, H, W); the same noise twice is allowed."""
    real = real_trajectory(x_0, noise_real, transitions)
    gen, eps_gen = opponent_trajectory(opponent, noise_gen, transitions)
    eps_real = torch.stack([opponent(real[step], step) for step in range(len(eps_gen))])
    return Trajectories(torch.cat([real, gen], 1), torch.cat([eps_real, eps_gen], 1))


class StepErrors(NamedTuple):
    """The player's weighted errors at one step, real rows before generated ones, each (2B,)."""

    error: Tensor
    change: Tensor
    """Less the opponent's."""


def step_errors(
    player: PredictEps, trajectories: Trajectories, transitions: Transitions, step: int
) -> StepErrors:
    """Measure the player against eps* at one step; the mean over the K steps is what enters the margin.

    The difference of squares is taken as a product: the errors themselves are far larger than it.
    """
    x_t, x_below = trajectories.latents[step], trajectories.latents[step + 1]
    eps_star = transitions.eps_of(step, x_t, x_below)
    player_eps, opponent_eps = player(x_t, step), trajectories.opponent_eps[step]
    difference = (player_eps - opponent_eps) * (player_eps + opponent_eps - 2.0 * eps_star)
    weight = (transitions.weights[step] / transitions.weights.mean()).item()
    error = denoising_error(player_eps.detach(), eps_star)
    return StepErrors(weight * error, weight * difference.flatten(1).mean(1))


def exact_gradient(
    player: PredictEps,
    trajectories: Trajectories,
    transitions: Transitions,
    beta: float,
    function: FunctionName,
    backward: Callable[[Tensor, bool], None],
) -> ExactLoss:
    """Call `backward` on K scalars whose gradients add up to that of the loss, one graph alive at a time.

    With each goes whether it is the last. The network must predict the same both times (no dropout).
    """
    # First pass, without gradient: the margin of each pair over its whole trajectory.
    num_steps = len(transitions.timesteps)
    with torch.no_grad():
        steps = [step_errors(player, trajectories, transitions, step) for step in range(num_steps)]
        errors, changes = (torch.stack(side).mean(0) for side in zip(*steps, strict=True))  # (2B,) each
    change_real, change_gen = changes.chunk(2)

    # The loss, and its slope at each margin.
    margin = (change_gen - change_real).requires_grad_()
    loss = pair_loss(margin, beta, function).mean()
    (slope,) = torch.autograd.grad(loss, margin)  # (B,), negative: d loss / d margin

    # Second pass: by the chain rule each step adds its own part, one graph alive at a time.
    torch.clear_autocast_cache()  # not every PyTorch casts weights again when the pass with gradient follows one without
    for step in range(num_steps):
        real, gen = step_errors(player, trajectories, transitions, step).change.chunk(2)
        backward((slope * (gen - real)).sum() / num_steps, step == num_steps - 1)

    # What to report.
    error_real, error_gen = errors.chunk(2)
    return ExactLoss(loss.detach(), margin.detach(), error_real, error_gen, change_real, change_gen)


def exact_forwards(num_pairs: int, num_steps: int) -> int:
    """Network forwards of one sample that `num_pairs` pairs cost over K steps; a backward counts as two."""
    return 10 * num_steps * num_pairs


def require_affordable(num_pairs: int, num_steps: int, flop_per_forward: int) -> None:
    """Raise `ParamsError` where training by the exact objective would cost more than `MAX_FLOP`, or what OVERRIDE allows.

    `num_pairs` counts every visit: batch size times updates; `flop_per_forward` is of one sample, multiply-add = 2.
    """
    forwards, limit = exact_forwards(num_pairs, num_steps), _affordable_flop()
    if forwards * flop_per_forward > limit:
        raise ParamsError(
            f"objective.kind: exact must cost at most {limit / 1e12:,.0f} TFLOP an iteration, got {num_pairs:,} "
            f"pairs x {num_steps} steps x 10 = {forwards:,} forward passes of {flop_per_forward / 1e12:.3g} TFLOP, "
            f"{forwards * flop_per_forward / 1e12:,.0f} TFLOP in all; take approximate, or fewer sampler steps, "
            f"updates or pairs, or set {OVERRIDE} to what you can pay, or to none."
        )


def _affordable_flop() -> float:
    given = os.environ.get(OVERRIDE)
    if given is None:
        return MAX_FLOP
    try:
        limit = math.inf if given == "none" else float(given) * 1e12
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ParamsError(f"{OVERRIDE} must be a number of TFLOP above 0, or none, got {given}; correct it.")
    return limit
