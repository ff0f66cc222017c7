"""`benchmarks.run` measures every contestant at what it says, on a machine with `spin` alone."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed.drawing_peers import pipeline
from benchmarks.speed.ours import drawing, training
from benchmarks.speed.peers import diffusion_dpo
from benchmarks.speed.subjects import PARAMS, Order, Turns
from benchmarks.speed.workspace import SIZES, prepare, write_workspace
from spin.params.schema import load_params
from spin.runtime import meter
from spin.runtime.files import read_json
from tests.models.tiny_families import write_tiny_sdxl
from tests.test_layers import ROOT, WITHOUT

QUICK = ["--device", "cpu", "--rounds", "2", "--updates", "2", "--pairs", "2"]
FEW = ["--set", "opponents.num_inference_steps", "2", "--set", "opponents.scheduler", "ddim"]


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    """The result of the command where Prefect, DVC and MLflow are not installed."""
    without, _, _ = WITHOUT.partition("for name in sys.argv")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(without)  # every child process reads it too
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *QUICK, *FEW, *arguments, "--out", str(folder / "speed")],
        cwd=ROOT,
        # Tracing is tested in tests/training/test_engine.py; generating code would take most of the time here.
        env={**os.environ, "PYTHONPATH": f"{folder / 'site'}:{ROOT}", "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    result: dict[str, Any] = read_json(folder / "speed.json")
    assert (folder / "speed.md").read_text() in done.stdout, "the tables are printed as they are kept"
    return result


@pytest.mark.slow
def test_every_contestant_is_measured_without_orchestration(tmp_path: Path, tiny_base: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- speed-tiny-cpu: made by `python -m benchmarks.run` -->\n<!-- end of speed-tiny-cpu -->\nafter\n"
    )
    size = ["--size", "tiny", "--base", str(tiny_base), "--images", "4"]
    result = measured(tmp_path, *size, "--page", str(page))
    assert "| this project, 2 processes |" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("<!-- end of speed-tiny-cpu -->\nafter\n")
    assert result["parts"].keys() == {"training", "drawing", "processes"}
    for rows in result["parts"].values():
        assert all(len(row["rates"]) == 2 for row in rows)
        assert [("times_as_fast" in row) for row in rows] == [False] + [True] * (len(rows) - 1)
    ours, compiled, one, best = result["parts"]["training"]
    assert compiled["tflop_each"] == pytest.approx(ours["tflop_each"])
    assert ours["tflop_each"] < one["tflop_each"] == pytest.approx(best["tflop_each"]), (
        "the recipe encodes in every step, and the work of a pair does not depend on how many are taken at a time"
    )
    assert one["at_a_time"] == 1
    images, _, stage, pipeline, _ = result["parts"]["drawing"]
    assert images["tflop_each"] < stage["tflop_each"], "posteriors are made of the images"
    assert images["tflop_each"] < pipeline["tflop_each"], "the pipeline encodes the captions"
    assert [row["processes"] for row in result["parts"]["processes"]] == [2, 1, 2, 2]


class Scripted(Turns):
    """Orders that are known beforehand, in this process; `asked` is what each took of the networks."""

    def __init__(self, *orders: Order) -> None:
        self.orders, self.items, self.asked = list(orders), list[int](), list[Counter[Any]]()

    def wait(self) -> Order | None:
        meter.asked.clear()
        return self.orders.pop(0) if self.orders else None

    def finish(self, items: int) -> None:
        self.items.append(items)
        self.asked.append(meter.asked.copy())

    def rows(self, part: str) -> list[int]:
        """Samples through a network, by turn."""
        return [sum(rows for ask, rows in turn.items() if ask.part == part) for turn in self.asked]


def test_the_contestants_do_the_same_work_on_sdxl_but_for_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_sdxl(tmp_path / "base")
    size = replace(SIZES["sdxl", "cpu"], images=4)
    few = {"resolution": 32, "opponents.num_inference_steps": 2}
    write_workspace(tmp_path, "sdxl", size, tmp_path / "base", few)
    monkeypatch.chdir(tmp_path)
    params = load_params(PARAMS)
    assert params.training.lora is None
    prepare(params, Scripted(), "")

    # Two updates of two pairs, one and two at a time: 4 forwards a pair, and 2 images and a caption encoded by the peers.
    orders = Order(1, 1), Order(1, 2)
    training(params, ours := Scripted(*orders), "")
    diffusion_dpo(params, peers := Scripted(*orders), "")
    assert ours.items == peers.items == [2, 2]
    assert ours.rows("denoiser") == peers.rows("denoiser") == [8, 8]
    assert ours.rows("encoder") == ours.rows("text") == [0, 0]
    assert peers.rows("encoder") == [4, 4]
    assert peers.rows("text") == [2, 2]

    # All images twice, one and four at a time.
    orders = Order(1, 1), Order(1, 4)
    drawing(params, drawn := Scripted(*orders), "direct")
    pipeline(params, piped := Scripted(*orders), "")
    assert drawn.items == piped.items == [4, 4]
    assert drawn.rows("denoiser") == piped.rows("denoiser") == [8, 8]
    assert drawn.rows("decoder") == piped.rows("decoder") == [4, 4]
