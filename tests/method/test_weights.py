"""Exact weights of the timesteps: the paper's, at a mean of one, whatever the network predicts."""

import pytest
import torch

from spin.errors import ParamsError
from spin.method.schedule import NoiseSchedule
from tests.method.processes import CHECK_VALUES, SD, by_the_papers_symbols, full_chain, latents


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


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_the_error_in_x_0_by_no_more_than_gamma(
    schedule: NoiseSchedule, prediction_type: str
) -> None:
    x_t, prediction, other = latents(4, rows=1000)
    timesteps = torch.arange(1000)
    signal, noise = (scale.reshape(-1, 1, 1, 1) for scale in (schedule.signal, schedule.noise))

    def x_0(predicted: torch.Tensor) -> torch.Tensor:
        eps = schedule.to_eps(prediction_type, predicted, x_t, timesteps)
        return (x_t - noise * eps) / signal

    in_x_0 = (x_0(prediction) - x_0(other)).square().flatten(1).mean(1)
    own = (prediction - other).square().flatten(1).mean(1)
    weighted = schedule.min_snr_weights(prediction_type, 5.0) * own
    torch.testing.assert_close(weighted, schedule.snr(timesteps).clamp(max=5.0) * in_x_0, rtol=1e-5, atol=0)


def test_min_snr_by_hand_and_where_there_is_no_signal() -> None:
    process = NoiseSchedule.from_alphas_cumprod(
        torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)
    )  # snr 9, 1, 0
    assert process.min_snr_weights("epsilon", 5.0).tolist() == pytest.approx([5 / 9, 1.0, 1.0])
    assert process.min_snr_weights("v_prediction", 5.0).tolist() == pytest.approx([5 / 10, 1 / 2, 0.0])
    with pytest.raises(
        ParamsError, match=r"min_snr_gamma must be null for a base that predicts flow, got 5\.0"
    ):
        process.min_snr_weights("flow", 5.0)
