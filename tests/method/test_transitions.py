"""The reverse chain: DDIM's step at eta 1, with the paper's mean and noise."""

import pytest
import torch
from torch import Tensor

from spin.errors import ParamsError
from spin.method.schedule import LATENT_DEFAULTS, NoiseSchedule
from spin.method.transitions import Transitions
from tests.method.processes import SD, SD3, by_the_papers_symbols, full_chain, latents


def test_errors_of_the_mean_are_errors_in_eps_exactly(schedule: NoiseSchedule) -> None:
    """x_below - mu(x_t, eps_pred) = h (eps_pred - eps*), and eps* - eps = -(s / h) z on a chain's own step."""
    chain = Transitions.of_sampler(schedule, SD, 15)
    x_t, eps_pred, other = latents(5)
    z = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for step in range(len(chain.timesteps)):
        x_below = chain.mu(step, x_t, other) + chain.s[step] * z
        eps_star = chain.eps_of(step, x_t, x_below)
        left = x_below - chain.mu(step, x_t, eps_pred)
        torch.testing.assert_close(left, chain.h[step] * (eps_pred - eps_star), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            eps_star - other, -(chain.s[step] / chain.h[step]) * z, rtol=1e-6, atol=1e-9
        )


def test_mu_is_the_papers_and_the_epsilon_form_follows(schedule: NoiseSchedule) -> None:
    x_0, eps, eps_pred = latents(7)
    chain = full_chain(schedule)
    for timestep in (1, 10, 500, 999):
        alpha, below = schedule.alphas_cumprod[timestep], schedule.alphas_cumprod[timestep - 1]
        h, s = by_the_papers_symbols(alpha, below)
        x_t = alpha.sqrt() * x_0 + (1 - alpha).sqrt() * eps
        rest = (1 - below - s**2).sqrt()

        def mu(
            noise: Tensor,
            x_t: Tensor = x_t,
            alpha: Tensor = alpha,
            below: Tensor = below,
            rest: Tensor = rest,
        ) -> Tensor:
            return below.sqrt() * (x_t - (1 - alpha).sqrt() * noise) / alpha.sqrt() + rest * noise

        torch.testing.assert_close(chain.mu(999 - timestep, x_t, eps_pred), mu(eps_pred), rtol=0, atol=1e-10)
        posterior_mean = below.sqrt() * x_0 + rest * eps
        torch.testing.assert_close(mu(eps), posterior_mean, rtol=0, atol=1e-10)
        squared = (posterior_mean - mu(eps_pred)).square().sum()
        assert squared.item() == pytest.approx((h**2 * (eps - eps_pred).square().sum()).item(), rel=1e-6)


def test_the_chain_keeps_the_marginals_of_the_forward_process(schedule: NoiseSchedule) -> None:
    """With the true eps, mean and noise of a step lead from q(x_t | x_0) to q(x_below | x_0)."""
    chain = Transitions.of_sampler(schedule, SD, 20)
    levels = torch.cat([chain.timesteps[1:], torch.tensor([0])])
    for step, below in enumerate(levels.tolist()):
        signal = chain.mean_scale[step] * chain.signal[step]
        noise = chain.mean_scale[step] * chain.noise[step] - chain.h[step]
        assert signal.item() == pytest.approx(schedule.signal[below].item())
        variance = noise**2 + chain.s[step] ** 2
        assert variance.item() == pytest.approx(schedule.noise[below].item() ** 2)


def test_a_chain_is_the_step_of_diffusers_ddim_at_eta_1(schedule: NoiseSchedule) -> None:
    from diffusers import DDIMScheduler

    config = {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    sampler = DDIMScheduler.from_config(config)
    sampler.set_timesteps(15)
    chain = Transitions.of_sampler(schedule, config, 15)
    assert torch.equal(chain.timesteps, sampler.timesteps)
    x_t, eps, z = (tensor.float() for tensor in latents(8))
    for step, timestep in enumerate(sampler.timesteps):
        theirs = sampler.step(eps, timestep, x_t, eta=1.0, variance_noise=z).prev_sample
        ours = chain.mu(step, x_t, eps) + chain.s[step].item() * z
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_where_the_config_is_silent_latents_are_not_clipped_and_the_chain_ends_on_level_0(
    schedule: NoiseSchedule,
) -> None:
    from diffusers import DDIMScheduler

    silent = {**SD, "steps_offset": 1}  # so that the last step is onto level 0 and not from it
    chain = Transitions.of_sampler(schedule, silent, 5)
    assert len(chain.timesteps) == 5
    assert chain.mean_scale[-1] * chain.signal[-1] == pytest.approx(schedule.signal[0].item())
    sampler = DDIMScheduler.from_config(LATENT_DEFAULTS | silent)
    sampler.set_timesteps(5)
    x_t, eps, z = (10 * tensor.float() for tensor in latents(9))
    theirs = sampler.step(eps, sampler.timesteps[1], x_t, eta=1.0, variance_noise=z).prev_sample
    torch.testing.assert_close(chain.mu(1, x_t, eps) + chain.s[1].item() * z, theirs, rtol=1e-4, atol=1e-4)


def test_the_last_step_onto_the_clean_image_has_no_density_and_is_left_out(schedule: NoiseSchedule) -> None:
    to_clean = Transitions.of_sampler(schedule, {**SD, "set_alpha_to_one": True}, 10)
    to_level_0 = Transitions.of_sampler(schedule, {**SD, "set_alpha_to_one": False, "steps_offset": 1}, 10)
    assert (len(to_clean.timesteps), len(to_level_0.timesteps)) == (9, 10)
    assert (to_clean.s > 0).all()
    with pytest.raises(ParamsError, match=r"must be at least 2 with objective\.kind exact, got 1"):
        Transitions.of_sampler(schedule, {**SD, "set_alpha_to_one": True}, 1)


def test_a_chain_from_pure_noise_is_refused(schedule: NoiseSchedule, flow: NoiseSchedule) -> None:
    silent = NoiseSchedule(torch.tensor([0.9, 0.0]).double(), torch.tensor([0.1, 1.0]).double())
    with pytest.raises(ParamsError, match=r"objective\.kind must be approximate"):
        Transitions.of_sampler(flow, SD3, 10)
    with pytest.raises(ParamsError, match=r"objective\.kind must be approximate"):
        Transitions.between(silent, torch.tensor([1, 0]), 1.0, 0.0)
