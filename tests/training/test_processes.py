"""Properties of the loop's edges: several processes, memory that runs out, gradients that overflow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from spin.errors import ParamsError
from spin.training.memory import MicroBatch
from spin.training.steps import Objective
from tests.training import games
from tests.training.games import ROWS, denoiser, play, predict, weight_of
from tests.training.running import Scaled
from tests.training.two_processes import in_two_processes

FULL = torch.OutOfMemoryError("CUDA out of memory.")


def sgd(player: nn.Module) -> torch.optim.Optimizer:
    """Moves the weights by the gradient itself."""
    return torch.optim.SGD(player.parameters(), lr=1.0)


def holds(rows: int, seen: list[int] | None = None) -> Callable[..., Tensor]:
    """A network whose device has memory for so many rows; a pair is two. `seen` gets those of every call."""

    def predicted(network: nn.Module, x_t: Tensor, *rest: Any) -> Tensor:
        if seen is not None:
            seen.append(len(x_t))
        if len(x_t) > rows:
            raise FULL
        return predict(network, x_t, *rest)

    return predicted


@pytest.mark.parametrize("full", [None, 0, 1])
def test_two_processes_move_the_weights_as_one_does_whoever_runs_out_of_memory(
    tmp_path: Path, full: int | None
) -> None:
    player = denoiser()
    wanted = play(player, optimizer=sgd(player))

    def work(rank: int) -> tuple[Any, Any, int]:
        seen: list[int] = []
        mine, memory = denoiser(), holds(2 if rank == full else 100, seen)
        reports = play(mine, micro_batch=2, auto=True, predict=memory, optimizer=sgd(mine))
        return reports, weight_of(mine).tolist(), seen[-1]

    for reports, weight, rows in in_two_processes(tmp_path, work):
        assert rows == (4 if full is None else 2), "both go on with what fits into the smaller memory"
        torch.testing.assert_close(torch.tensor(weight), weight_of(player), rtol=1e-4, atol=1e-6)
        assert reports[0] == pytest.approx(wanted[0], rel=1e-4)


def test_an_update_leaves_no_gradient_behind_and_the_player_in_training() -> None:
    player = denoiser().eval()
    play(player)
    assert [parameter.grad for parameter in player.parameters()] == [None]
    assert player.training, "dropout, where a network has it, is on"


@pytest.mark.parametrize(
    ("size", "cure"), [(1, r"set training\.gradient_checkpointing"), (2, "lower it, or set it to auto")]
)
def test_the_cure_for_running_out_of_memory_fits_the_size(size: int, cure: str) -> None:
    with pytest.raises(ParamsError, match=f"ran out with {size} at a time; {cure}"):
        play(denoiser(), micro_batch=size, predict=holds(1))


def test_an_error_that_is_not_of_memory_is_passed_on() -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        play(denoiser(), auto=True, predict=broken)


def test_every_overflow_halves_the_loss_scale_and_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Any] = []
    train = games.train
    monkeypatch.setattr(games, "train", lambda state, *rest: (states.append(state), train(state, *rest)))
    accelerator, player = Scaled(2.0**127), denoiser()
    play(player, accelerator=accelerator, objective=Objective(1000.0))
    (state,) = states
    halvings = torch.log2(torch.tensor(2.0**127 / accelerator.scaler.get_scale(), dtype=torch.float64))
    assert state.overflows == halvings.item() > 0
    assert state.micro_batch == MicroBatch(ROWS, False)
    AcceleratorState._reset_state()
