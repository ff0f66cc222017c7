"""Properties of the forward process, the prediction types, the timestep weights and the reverse chain."""

import pytest
import torch
from torch import Tensor

from spin.errors import ModelError, ParamsError
from spin.method.schedule import LATENT_DEFAULTS, NoiseSchedule
from spin.method.transitions import Transitions

SD = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
CHECK_VALUES = {
    1: 0.503,
    10: 0.0518,
    50: 0.0116,
    100: 0.0066,
    250: 0.0038,
    500: 0.0034,
    750: 0.0043,
    999: 0.0061,
}
"""h_t^2 / (2 s_t^2) at eta = 1 on Stable Diffusion's schedule, worked out independently."""


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config(SD)


@pytest.fixture(scope="module")
def flow() -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config(SD3)


def latents(seed: int, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second, third = torch.randn(3, rows, 4, 2, 2, generator=generator, dtype=torch.float64)
    return first, second, third


def test_alphas_cumprod_is_stable_diffusions(schedule: NoiseSchedule) -> None:
    from diffusers import DDIMScheduler

    published = DDIMScheduler.from_config(SD).alphas_cumprod.double()
    torch.testing.assert_close(schedule.alphas_cumprod, published, rtol=1e-4, atol=1e-9)
    assert (schedule.alphas_cumprod.diff() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_add_noise_keeps_unit_variance_at_every_timestep(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    timesteps = torch.arange(1000)
    ones = torch.ones(1000, 1, 1, 1, dtype=dtype)
    signal = schedule.add_noise(ones, 0 * ones, timesteps).double()
    noise = schedule.add_noise(0 * ones, ones, timesteps).double()
    assert schedule.add_noise(ones, ones, timesteps).dtype == torch.float32
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(1000, 1, 1, 1).double(), rtol=0, atol=1e-6)
    assert noise.min() > 0.02, "in half precision the first timesteps would get no noise at all"


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow"])
def test_half_precision_latents_are_noised_in_fp32_for_every_prediction_type(
    schedule: NoiseSchedule, flow: NoiseSchedule, prediction_type: str
) -> None:
    process = flow if prediction_type == "flow" else schedule
    x_0, eps, _ = (tensor.bfloat16() for tensor in latents(0, rows=1000))
    timesteps = torch.arange(1000)
    for noised, wanted in (
        (process.add_noise(x_0, eps, timesteps), process.add_noise(x_0.double(), eps.double(), timesteps)),
        (
            process.target(prediction_type, x_0, eps, timesteps).float(),
            process.target(prediction_type, x_0.double(), eps.double(), timesteps),
        ),
    ):
        assert noised.dtype == torch.float32
        torch.testing.assert_close(noised.double(), wanted, rtol=1e-5, atol=1e-6)


def test_add_noise_has_the_variance_of_its_input(schedule: NoiseSchedule) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 4000, 1, 2, 2, generator=generator)
    for step in (0, 1, 250, 500, 999):
        x_t = schedule.add_noise(x_0, eps, torch.full((4000,), step))
        assert x_t.var().item() == pytest.approx(1.0, abs=0.05)


def test_alpha_bar_is_the_share_of_signal_in_the_variance_of_any_process(flow: NoiseSchedule) -> None:
    """Also where signal^2 + noise^2 is not one, as between the ends of a flow."""
    signal, variance = flow.signal**2, flow.signal**2 + flow.noise**2
    assert variance.min() < 0.6
    torch.testing.assert_close(flow.alphas_cumprod * variance, signal)


def test_snr_falls_and_matches_alpha_bar(schedule: NoiseSchedule) -> None:
    snr = schedule.snr(torch.arange(1000))
    assert (snr.diff() < 0).all()
    alpha_bar = schedule.alpha_bar(torch.tensor([500]))
    assert snr[500].item() == pytest.approx((alpha_bar / (1 - alpha_bar)).item())


def test_the_flow_is_diffusers_own(flow: NoiseSchedule) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SD3)
    timesteps = torch.arange(1000)
    torch.testing.assert_close(flow.noise.flip(0).float(), scheduler.sigmas[:1000], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flow.times(timesteps).flip(0), scheduler.timesteps, rtol=1e-5, atol=1e-3)
    x_0, eps, _ = latents(1)
    chosen = torch.tensor([0, 400, 999])
    theirs = scheduler.scale_noise(x_0.float(), scheduler.timesteps.flip(0)[chosen], eps.float())
    torch.testing.assert_close(flow.add_noise(x_0.float(), eps.float(), chosen), theirs, rtol=1e-5, atol=1e-5)


def test_a_flow_that_says_nothing_of_itself_is_diffusers_default() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = NoiseSchedule.from_scheduler_config({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    sigmas = FlowMatchEulerDiscreteScheduler().sigmas
    assert own.num_train_timesteps == 1000
    torch.testing.assert_close(own.noise.flip(0).float(), sigmas[:1000], rtol=1e-5, atol=1e-6)


def test_a_flow_whose_shift_follows_the_resolution_is_refused() -> None:
    with pytest.raises(ModelError, match="use_dynamic_shifting false, got true"):
        NoiseSchedule.from_scheduler_config({**SD3, "use_dynamic_shifting": True})


def test_an_unknown_prediction_type_is_refused(schedule: NoiseSchedule) -> None:
    x_0, eps, _ = latents(0)
    for call in (schedule.target, schedule.to_eps):
        with pytest.raises(ModelError, match="must be one of epsilon, v_prediction, flow, got sample"):
            call("sample", x_0, eps, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ModelError, match="got sample"):
        schedule.timestep_weights("sample")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow"])
def test_a_perfect_prediction_amounts_to_the_noise_that_was_drawn(
    schedule: NoiseSchedule, flow: NoiseSchedule, prediction_type: str
) -> None:
    process = flow if prediction_type == "flow" else schedule
    x_0, eps, _ = latents(2)
    timesteps = torch.tensor([0, 321, 999])
    x_t, target = (
        process.add_noise(x_0, eps, timesteps),
        process.target(prediction_type, x_0, eps, timesteps),
    )
    torch.testing.assert_close(
        process.to_eps(prediction_type, target, x_t, timesteps), eps, rtol=0, atol=1e-12
    )


def test_velocity_target_is_diffusers(schedule: NoiseSchedule) -> None:
    from diffusers import DDPMScheduler

    x_0, eps, _ = (tensor.float() for tensor in latents(3))
    timesteps = torch.tensor([3, 480, 999])
    theirs = DDPMScheduler.from_config(SD).get_velocity(x_0, eps, timesteps)
    torch.testing.assert_close(
        schedule.target("v_prediction", x_0, eps, timesteps), theirs, rtol=1e-5, atol=1e-5
    )


# The timestep weights


def full_chain(schedule: NoiseSchedule) -> Transitions:
    """All T - 1 transitions, from T - 1 down to 0."""
    return Transitions.between(
        schedule, torch.arange(999, 0, -1), schedule.signal[0].item(), schedule.noise[0].item()
    )


def by_the_papers_symbols(alpha: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """(h, s) from alphas_cumprod at a level and below it, written as in the paper at eta = 1."""
    s = ((1 - below) / (1 - alpha) * (1 - alpha / below)).sqrt()
    h = (below / alpha).sqrt() * (1 - alpha).sqrt() - (1 - below - s**2).sqrt()
    return h, s


def test_the_exact_weights_have_their_check_values(schedule: NoiseSchedule) -> None:
    weights = full_chain(schedule).weights.flip(0)  # of timesteps 1 to 999
    for timestep, wanted in CHECK_VALUES.items():
        assert weights[timestep - 1].item() == pytest.approx(wanted, rel=0.02)
    h, s = by_the_papers_symbols(schedule.alphas_cumprod[1:], schedule.alphas_cumprod[:-1])
    torch.testing.assert_close(weights, h**2 / (2 * s**2), rtol=1e-6, atol=0)


def test_timestep_weights_are_the_exact_ones_at_a_mean_of_one(schedule: NoiseSchedule) -> None:
    weights = schedule.timestep_weights("epsilon")
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[0] == 0, "nothing lies below timestep 0"
    exact = full_chain(schedule).weights.flip(0)
    torch.testing.assert_close(weights[1:] / weights[500], exact / exact[499], rtol=1e-9, atol=0)
    assert 76 < weights[1] < 78


@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow"])
def test_weighted_errors_agree_with_those_in_eps_whatever_the_network_predicts(
    schedule: NoiseSchedule, flow: NoiseSchedule, prediction_type: str
) -> None:
    process = flow if prediction_type == "flow" else schedule
    x_t, prediction, other = latents(4, rows=998)
    timesteps = torch.arange(1, 999)  # the flow's last has no signal, and so no eps error
    in_eps = process.to_eps(prediction_type, prediction, x_t, timesteps)
    other_eps = process.to_eps(prediction_type, other, x_t, timesteps)
    eps_errors = (in_eps - other_eps).square().flatten(1).mean(1)
    own_errors = (prediction - other).square().flatten(1).mean(1)
    torch.testing.assert_close(eps_errors, process.signal[timesteps] ** 2 * own_errors)
    snr = process.snr(torch.arange(999))
    weighted_eps = 0.5 * (snr[:-1] / snr[1:] - 1) * eps_errors
    weighted_own = process.timestep_weights(prediction_type)[1:-1] * own_errors
    torch.testing.assert_close(
        weighted_own / weighted_own[0], weighted_eps / weighted_eps[0], rtol=1e-6, atol=0
    )


def test_weights_are_finite_without_terminal_signal_for_velocities_only(flow: NoiseSchedule) -> None:
    assert torch.isfinite(flow.timestep_weights("flow")).all()
    rescaled = NoiseSchedule.from_scheduler_config({**SD, "rescale_betas_zero_snr": True})
    ends_silent = NoiseSchedule(
        rescaled.signal.clone().index_fill(0, torch.tensor([999]), 0.0), rescaled.noise
    )
    assert torch.isfinite(ends_silent.timestep_weights("v_prediction")).all()
    with pytest.raises(
        ParamsError, match="timestep_weighting must be constant for a network that predicts epsilon"
    ):
        ends_silent.timestep_weights("epsilon")


# The reverse chain


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

    chain, said = (
        Transitions.of_sampler(schedule, config, 5) for config in (SD, {**SD, "set_alpha_to_one": False})
    )
    torch.testing.assert_close(chain.s, said.s)
    sampler = DDIMScheduler.from_config(LATENT_DEFAULTS | SD)
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
