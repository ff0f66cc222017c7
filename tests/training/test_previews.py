"""Previews: they change no bit, fail nothing, and stand beside what was drawn before the first update."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spin.stages.callbacks
import spin.stages.preview
from spin.runtime.sheets import labelled_sheet
from spin.stages.resume import save_state
from spin.training.loop import TrainState
from tests.stages.projects import parameters
from tests.training.running import LORA, assert_same, trained


def test_previews_are_drawn_and_change_no_bit(inside: Path, tiny_base: Path) -> None:
    changes = {"lora": LORA, "ema_decay": 0.5}
    without, _ = trained(parameters(tiny_base, training=changes))
    assert not Path("outputs/previews/iter1").exists()
    with_previews, _ = trained(parameters(tiny_base, training={**changes, "preview_every": 2}))
    assert_same(without, with_previews)
    drawn = sorted(Path("outputs/previews/iter1").glob("step-*.png"))
    assert [path.name for path in drawn] == ["step-000000.png", "step-000002.png", "step-000004.png"]
    first, second, third = (np.asarray(Image.open(path)) for path in drawn)
    assert (tile_at(second, 0) == tile_at(first, 0)).all(), "the start stands beside every later update"
    assert (tile_at(third, 0) == tile_at(first, 0)).all()
    assert (tile_at(third, 1) != tile_at(second, 1)).any(), "the player has moved"


def tile_at(sheet: np.ndarray, place: int) -> np.ndarray:
    """A picture of the first caption, under its label of 15 pixels."""
    return sheet[15:111, place * 96 : (place + 1) * 96]


def test_a_killed_run_goes_on_beside_the_start_that_it_had_drawn(inside: Path, tiny_base: Path) -> None:
    params = parameters(tiny_base, training={"preview_every": 4, "checkpoint_every": 2})
    trained(params)
    unbroken = Path("outputs/previews/iter1/step-000004.png").read_bytes()
    shutil.rmtree("outputs/checkpoints/iter1")
    shutil.rmtree(".spin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spin.stages.callbacks, "save_state", killed_after(2))
        with pytest.raises(KeyboardInterrupt):
            trained(params)
    Path("outputs/previews/iter1/step-000000.png").unlink()
    trained(params)
    drawn = [path.name for path in Path("outputs/previews/iter1").glob("step-*.png")]
    assert drawn == ["step-000004.png"], "it went on, and a start is drawn at the start alone"
    assert Path("outputs/previews/iter1/step-000004.png").read_bytes() == unbroken


def killed_after(step: int) -> Callable[..., None]:
    def save(work: Path, state: TrainState, *rest: Any) -> None:
        save_state(work, state, *rest)
        if state.step == step:
            raise KeyboardInterrupt

    return save


def test_a_preview_that_fails_is_a_warning(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("no space left")

    plain, _ = trained(parameters(tiny_base, training={"ema_decay": 0.5}))
    monkeypatch.setattr(spin.stages.preview, "sample_images", failing)
    weights, _ = trained(parameters(tiny_base, training={"ema_decay": 0.5, "preview_every": 1}))
    assert_same(plain, weights)
    assert "no preview at update 1 (no space left); training goes on." in caplog.text


def test_a_sheet_has_room_for_words_and_no_picture_is_written_over() -> None:
    red, blue = Image.new("RGB", (128, 128), "red"), Image.new("RGB", (128, 128), "blue")
    long = "a caption that is far too long for its place " * 20
    groups = [(caption, [("update 0", red), ("update 8", blue)]) for caption in (long, "short", "ü Ж")]
    sheet = np.asarray(labelled_sheet(groups, columns=2))
    assert sheet.shape == (2 * (128 + 5 * 15), 4 * 128 + 12, 3)
    for colour in ("red", "blue"):
        shown = (sheet == np.asarray(Image.new("RGB", (1, 1), colour))).all(-1)
        assert shown.sum() == 3 * 128 * 128, "whole, thrice"
    words = (sheet != 255).any(-1)[15 + 128 : 5 * 15 + 128]
    assert words[:, :256].sum() > words[:, 268:].sum() > 0
