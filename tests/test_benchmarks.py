"""`benchmarks.run` measures every contestant at what it says, on a machine with `spin` alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
        env={**os.environ, "PYTHONPATH": f"{folder / 'site'}:{ROOT}"},
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
    ours, one, best = result["parts"]["training"]
    assert ours["tflop_each"] < one["tflop_each"] == pytest.approx(best["tflop_each"]), (
        "the recipe encodes in every step, and the work of a pair does not depend on how many are taken at a time"
    )
    assert one["at_a_time"] == 1
    images, stage, pipeline, _ = result["parts"]["drawing"]
    assert images["tflop_each"] < stage["tflop_each"], "posteriors are made of the images"
    assert images["tflop_each"] < pipeline["tflop_each"], "the pipeline encodes the captions"
    assert [row["processes"] for row in result["parts"]["processes"]] == [2, 1, 2]


@pytest.mark.slow
def test_sdxl_is_measured_too(tmp_path: Path) -> None:
    write_tiny_sdxl(tmp_path / "base")
    small = ["--set", "resolution", "32", "--parts", "training", "drawing"]
    result = measured(tmp_path, "--size", "sdxl", "--base", str(tmp_path / "base"), "--images", "4", *small)
    ours, one, _ = result["parts"]["training"]
    assert 0 < ours["tflop_each"] < one["tflop_each"]
    assert result["settings"]["one"]["training"]["lora"] is None
