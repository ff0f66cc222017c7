"""Properties of the guards: the loser scale, the sign of the opponent, the look-out."""

import logging

import pytest
import torch

from spin.method.guards import error_gradient, loser_scale, opponent_sign, scale_gradient
from spin.method.losses import denoising_error
from spin.stages.rising_errors import RisingErrors


@pytest.mark.parametrize("mu", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("alike", [-2.0, -0.3, 0.0, 0.3, 1.0, 5.0])
def test_a_step_under_the_loser_scale_lowers_the_error_on_real_images_to_first_order(
    mu: float, alike: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    real, noise = torch.randn(2, 4, 4, 8, 8, generator=generator, dtype=torch.float64)
    gen = alike * real + 0.5 * noise
    scale = loser_scale(real, gen, mu)
    assert 0 <= scale <= 1
    change = -(real * (real - scale * gen)).sum()
    assert change <= -mu * (real * real).sum() * (1 - 1e-9)
    if (real * gen).sum() <= (1 - mu) * (real * real).sum():
        assert scale == 1, "no more is taken away than the guarantee needs"


@pytest.mark.parametrize("size", [1e-5, 1e-2, 1.0])
def test_the_loser_scale_is_its_formula_whatever_the_size_of_the_gradients(size: float) -> None:
    real = torch.full((1, 1, 2, 2), size, dtype=torch.float64)  # ||gA||^2 = 4 size^2, <gA, 4 gA> = 16 size^2
    scale = loser_scale(real, 4 * real, mu=0.5).item()
    assert scale == pytest.approx(2 * size**2 / (16 * size**2 + 1e-9))
    assert scale <= 0.125, "errs towards less of the gradient from generated images"
    assert loser_scale(0 * real, real, mu=0.5) == 1, "nothing is taken away where nothing pulls against it"


def test_one_real_step_under_the_loser_scale_lowers_the_error_that_would_rise_without() -> None:
    """Both errors depend on the same weights: moving away from the generated image drags the real one along."""
    real_target, gen_target = torch.tensor([1.0, 0.2]).double(), torch.tensor([5.0, 0.3]).double()

    def error_after(scale: float) -> float:
        weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        real = (weights - real_target).square().mean()
        gen = (weights - gen_target).square().mean()
        (gradient,) = torch.autograd.grad(real - scale_gradient(gen, torch.tensor(scale).double()), weights)
        return (weights - 1e-3 * gradient - real_target).square().mean().item()

    before = real_target.square().mean().item()
    assert error_after(1.0) > before
    assert error_after(loser_scale(-real_target, -gen_target, mu=0.5).item()) < before


def test_the_loser_scale_is_taken_in_fp32_also_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(2, 4, 8, 8, generator=generator)
    gen = real + 0.3 * torch.randn(2, 4, 8, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loser_scale(real, gen, 0.7)
    assert inside.dtype == torch.float32
    assert inside.item() == loser_scale(real, gen, 0.7).item()


def test_the_gradient_of_the_error_is_autograds() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, generator=generator, dtype=torch.float64)
    prediction.requires_grad_()
    (wanted,) = torch.autograd.grad((weights * denoising_error(prediction, target)).mean(), prediction)
    torch.testing.assert_close(error_gradient(prediction, target, weights), wanted)


def test_scaling_a_gradient_leaves_the_value_to_the_bit() -> None:
    errors = torch.rand(5, requires_grad=True)
    scaled = scale_gradient(errors, torch.tensor(0.3))
    assert torch.equal(scaled, errors)
    (gradient,) = torch.autograd.grad(scaled.sum(), errors)
    torch.testing.assert_close(gradient, torch.full((5,), 0.3))


def test_an_opponent_that_is_better_on_the_real_image_attracts_and_a_tie_repels() -> None:
    player = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    sign = opponent_sign(player, torch.tensor([0.2, 0.2, 0.2]))
    assert sign.tolist() == [1.0, 1.0, -1.0]
    assert not sign.requires_grad


# The look-out


def report(loss: float, real: float, gen: float) -> dict[str, float]:
    return {"loss": loss, "error_real_change": real, "error_gen_change": gen}


def feed(watch: RisingErrors, updates: range, real: float, gen: float, loss: float) -> list[bool]:
    """A run whose curves move by these slopes, with noise that does not repeat over the halves."""
    noise = torch.Generator().manual_seed(updates.start)
    verdicts = []
    for update in updates:
        jitter = 0.1 * torch.randn(3, generator=noise)
        values = (update * slope + float(by) for slope, by in zip((loss, real, gen), jitter, strict=True))
        verdicts.append(watch.see(report(*values)))
    return verdicts


def test_it_warns_once_when_both_errors_rise_and_the_loss_falls(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        verdicts = feed(RisingErrors(window=16), range(64), real=0.1, gen=0.2, loss=-0.1)
    assert not any(verdicts[:15]), "not before there is enough to look at"
    assert all(verdicts[16:])
    assert len(caplog.records) == 1
    assert "the errors on real and on generated images both rose" in caplog.text


def test_it_warns_again_after_a_stretch_without(caplog: pytest.LogCaptureFixture) -> None:
    watch = RisingErrors(window=16)
    with caplog.at_level(logging.WARNING):
        feed(watch, range(32), 0.1, 0.2, -0.1)
        feed(watch, range(32, 64), -0.1, 0.2, -0.1)
        feed(watch, range(64, 96), 0.1, 0.2, -0.1)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("real", "gen", "loss"), [(-0.1, 0.2, -0.1), (0.1, -0.2, -0.1), (0.1, 0.2, 0.1), (0.0, 0.0, 0.0)]
)
def test_it_is_silent_about_anything_else(
    caplog: pytest.LogCaptureFixture, real: float, gen: float, loss: float
) -> None:
    with caplog.at_level(logging.WARNING):
        feed(RisingErrors(window=16), range(64), real, gen, loss)
    assert not caplog.records


def test_it_passes_over_reports_without_pairs() -> None:
    watch = RisingErrors(window=2)
    assert not any(watch.see({"loss": 1.0 - step, "error_real_change": float(step)}) for step in range(8))
