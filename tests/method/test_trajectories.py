"""The trajectories that the exact objective goes over."""

import math
import weakref

import pytest
import torch
from torch import Tensor

from spin.method.exact import (
    draw_chain_noise,
    draw_trajectories,
    exact_gradient,
    real_trajectory,
)
from tests.method.chains import (
    SCHEDULE,
    SHAPE,
    backward,
    chain_of,
    game,
    predictor,
)


def test_real_trajectories_have_the_marginals_of_the_forward_process() -> None:
    chain, rows = chain_of(5), 20000
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.full((rows, 1, 1, 1), 1.5, dtype=torch.float64)
    noise = torch.randn(6, rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    levels = real_trajectory(x_0, noise, chain)
    for level, timestep in zip(levels, [*chain.timesteps.tolist(), 0], strict=True):
        signal, deviation = SCHEDULE.signal[timestep].item(), SCHEDULE.noise[timestep].item()
        assert level.mean().item() == pytest.approx(1.5 * signal, abs=4 * deviation / math.sqrt(rows))
        assert level.std().item() == pytest.approx(deviation, rel=0.03)


def test_every_level_of_the_chain_has_noise_of_its_own_and_the_start_is_the_forward_process() -> None:
    chain = chain_of(5)
    streams = [torch.Generator().manual_seed(seed) for seed in range(3)]
    noise = draw_chain_noise(streams, SHAPE, chain)
    assert noise.shape == (6, 3, *SHAPE)
    assert torch.equal(noise[0, 2], torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)))
    assert noise.flatten().unique().numel() == noise.numel()
    x_0 = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(9))
    start = SCHEDULE.add_noise(x_0, noise[0], chain.timesteps[:1].expand(3))
    torch.testing.assert_close(real_trajectory(x_0, noise, chain)[0], start)


def test_the_reported_errors_are_weighted_and_their_difference_is_the_change() -> None:
    player, opponent, chain, drawn = game()
    result = exact_gradient(predictor(player, chain), drawn, chain, 1.0, "logistic", lambda *_: None)
    theirs = exact_gradient(predictor(opponent, chain), drawn, chain, 1.0, "logistic", lambda *_: None)
    torch.testing.assert_close(result.error_real - theirs.error_real, result.change_real)
    torch.testing.assert_close(result.error_gen - theirs.error_gen, result.change_gen)
    total = torch.zeros(8, dtype=torch.float64)
    for step, weight in enumerate((chain.weights / chain.weights.mean()).tolist()):
        eps_star = chain.eps_of(step, drawn.latents[step], drawn.latents[step + 1])
        eps = predictor(player, chain)(drawn.latents[step], step).detach()
        total += weight * (eps - eps_star).square().flatten(1).mean(1) / 6
    torch.testing.assert_close(torch.cat([result.error_real, result.error_gen]), total)


def test_the_real_trajectory_of_a_perfect_opponent_is_its_own() -> None:
    """Where all images are one image, the true eps is known and the forward chain is the reverse one."""
    chain = chain_of(5)
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, 3, *SHAPE, generator=generator, dtype=torch.float64)
    real = real_trajectory(x_0, noise, chain)

    def knows(x_t: Tensor, step: int) -> Tensor:
        return chain.eps_in(step, x_t, x_0)

    drawn = draw_trajectories(knows, x_0, noise, noise, chain)
    start = chain.signal[0] * x_0 + chain.noise[0] * noise[0] - noise[0]  # the sampler starts from pure noise
    gap = (drawn.latents[-1, :3] - drawn.latents[-1, 3:]).abs().max()
    assert torch.equal(drawn.latents[:, :3], real)
    assert gap < 0.05 * start.abs().max()


def test_memory_does_not_grow_with_the_number_of_steps() -> None:
    def peak(steps: int) -> int:
        player, _, chain, drawn = game(steps)
        alive, most = 0, 0

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor

        def release(size: int) -> None:
            nonlocal alive
            alive -= size

        def pack(tensor: Tensor) -> Held:
            nonlocal alive, most
            held = Held(tensor)
            alive += tensor.numel()
            most = max(most, alive)
            weakref.finalize(held, release, tensor.numel())
            return held

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            exact_gradient(predictor(player, chain), drawn, chain, 2.0, "logistic", backward)
        return most

    assert 0 < peak(12) <= 1.01 * peak(3)
