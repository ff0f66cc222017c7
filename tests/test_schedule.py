"""Properties of the noise schedule."""

import pytest
import torch

from spin.schedule import NoiseSchedule

SD = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config(SD)


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


def test_add_noise_has_the_variance_of_its_input(schedule: NoiseSchedule) -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 4000, 1, 2, 2, generator=generator)
    for step in (0, 1, 250, 500, 999):
        x_t = schedule.add_noise(x_0, eps, torch.full((4000,), step))
        assert x_t.var().item() == pytest.approx(1.0, abs=0.05)


def test_snr_falls_and_matches_alpha_bar(schedule: NoiseSchedule) -> None:
    snr = schedule.snr(torch.arange(1000))
    assert (snr.diff() < 0).all()
    alpha_bar = schedule.alpha_bar(torch.tensor([500]))
    assert snr[500].item() == pytest.approx((alpha_bar / (1 - alpha_bar)).item())
