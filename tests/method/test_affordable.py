"""What the exact objective costs, and what is refused as too dear."""

import pytest
import torch
from torch import Tensor, nn

from spin.errors import ParamsError
from spin.method.exact import (
    MAX_FLOP,
    OVERRIDE,
    PredictEps,
    draw_trajectories,
    exact_forwards,
    exact_gradient,
    require_affordable,
)
from tests.method.chains import SHAPE, TinyDenoiser, backward, chain_of, predictor


def test_the_cost_counts_the_forwards_that_are_made() -> None:
    player, opponent = TinyDenoiser(0).double(), TinyDenoiser(1).double()
    chain, count = chain_of(6), {"plain": 0, "with gradient": 0}

    def counting(denoiser: nn.Module) -> PredictEps:
        def predict(x_t: Tensor, step: int) -> Tensor:
            count["with gradient" if torch.is_grad_enabled() else "plain"] += len(x_t)
            return predictor(denoiser, chain)(x_t, step)

        return predict

    x_0, noise = torch.randn(3, *SHAPE).double(), torch.randn(7, 3, *SHAPE).double()
    drawn = draw_trajectories(counting(opponent), x_0, noise, noise, chain)
    exact_gradient(counting(player), drawn, chain, 1.0, "logistic", backward)
    assert count["plain"] + 3 * count["with gradient"] == exact_forwards(num_pairs=3, num_steps=6)


def test_the_papers_setting_is_refused_with_its_cost_and_a_small_one_is_not() -> None:
    require_affordable(num_pairs=32 * 64, num_steps=15, flop_per_forward=200_000_000)
    with pytest.raises(
        ParamsError, match=r"objective.kind: exact must cost at most 1,000,000 TFLOP"
    ) as raised:
        require_affordable(num_pairs=2048 * 500, num_steps=50, flop_per_forward=803_000_000_000)
    assert "512,000,000 forward passes of 0.803 TFLOP, 411,136,000 TFLOP in all" in str(raised.value)


def affordable(flop: float) -> bool:
    """One forward of one pair over one step costs `flop`, ten of them in all."""
    try:
        require_affordable(1, 1, int(flop / 10))
    except ParamsError:
        return False
    return True


def test_the_environment_raises_lowers_or_lifts_what_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    assert (affordable(MAX_FLOP), affordable(1.001 * MAX_FLOP)) == (True, False)
    for tera in ("2e6", "5", "0.25"):
        monkeypatch.setenv(OVERRIDE, tera)
        limit = float(tera) * 1e12
        assert (affordable(limit), affordable(1.001 * limit)) == (True, False)
    monkeypatch.setenv(OVERRIDE, "none")
    assert affordable(1e30)


@pytest.mark.parametrize("given", ["", "0", "-3", "nan", "much", "None", "1e6 TFLOP"])
def test_a_limit_that_is_no_number_above_0_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(OVERRIDE, given)
    with pytest.raises(
        ParamsError, match=f"{OVERRIDE} must be a number of TFLOP above 0, or none, got {given};"
    ):
        require_affordable(1, 1, 1)


def test_a_limit_of_less_than_one_operation_is_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "5e-13")
    with pytest.raises(ParamsError, match="must cost at most 0 TFLOP an iteration"):
        require_affordable(1, 1, 1)
