"""Properties of the forward process, the prediction types, the timestep weights and the reverse chain."""

import pytest
import torch

from spin.errors import ModelError
from spin.method.schedule import NoiseSchedule
from tests.method.processes import SD, latents

SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


"""h_t^2 / (2 s_t^2) at eta = 1 on Stable Diffusion's schedule, worked out independently."""


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
