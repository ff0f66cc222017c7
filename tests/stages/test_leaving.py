"""Processes of a stage end together."""

import time
from pathlib import Path

import pytest
import torch

from spin.cli import main
from spin.runtime.devices import leave_together
from tests.stages.projects import prepare
from tests.training.two_processes import in_two_processes


def test_no_process_leaves_before_the_last_has_come(tmp_path: Path) -> None:
    def leave(rank: int) -> tuple[float, bool]:
        time.sleep(1.0 - rank)
        started = time.monotonic()
        leave_together()
        return time.monotonic() - started, torch.distributed.is_initialized()

    (_, first_talks), (waited, second_talks) = in_two_processes(tmp_path, leave)
    assert waited > 0.5
    assert not first_talks
    assert not second_talks


def test_a_finished_stage_talks_to_no_other_process(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, tiny_base)
    monkeypatch.chdir(tmp_path)

    def cache(_: int) -> tuple[int, bool]:
        return main(["cache"]), torch.distributed.is_initialized()

    assert in_two_processes(tmp_path, cache) == [(0, False), (0, False)]
