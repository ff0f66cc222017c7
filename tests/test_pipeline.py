"""The real pipeline, whole, at miniature size: through the flow, then through DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dvc")
pytest.importorskip("prefect")

import flows.environment  # noqa: F401  (switches before Prefect)
from flows.spin_diffusion import spin_diffusion
from spin.files import read_json
from tests.tiny import copy_project, miniature_params, write_params


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def run(root: Path) -> Any:
    return spin_diffusion(root=root, return_state=True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("prefect_server")
def test_the_whole_loop_and_what_a_change_reruns(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIN_TRACKING", "off")  # test_tracking holds what MLflow is told
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    raw = miniature_params(tiny_base)
    raw["baselines"] = {"dpo": raw["baselines"]["dpo"]}
    raw["evaluate"] |= {"models": ["base", "dpo", "iter1", "iter2"], "references": []}
    raw["scorers"] = {name: raw["scorers"][name] for name in ("aesthetic", "oracle_psnr")}
    raw["tables"] |= {"average_of": ["aesthetic"], "over": ["base"]}
    copy_project(tmp_path, raw)
    dvc(tmp_path, "init", "--no-scm", "-q")

    first = run(tmp_path)
    assert first.is_completed(), first.message
    assert first.message == "20 stages ran, 0 were cached."
    summary = read_json(tmp_path / "outputs/tables/test/summary.json")
    assert summary["champion"] in ("iter1", "iter2")
    assert set(summary["win_rate_over_base"]) >= {"dpo", "iter1", "iter2"}
    assert (tmp_path / "outputs/report/report.html").stat().st_size > 10_000
    registry = read_json(tmp_path / "outputs/registry/registry.json")
    assert [entry["model"] for entry in registry["models"]] == ["iter1", "iter2"]

    # DVC agrees that nothing is left to do.
    assert "up to date" in dvc(tmp_path, "status")
    assert "up to date" in dvc(tmp_path, "repro")

    # Another learning rate in iteration 2 reruns iteration 2 and what follows from it.
    raw["iterations"]["iter2"]["learning_rate"] = 2e-3
    write_params(tmp_path, raw)
    stale = {
        line.split(":")[0] for line in dvc(tmp_path, "status").splitlines() if line and not line[0].isspace()
    }
    assert stale == {
        "train@iter2",
        "tables@test",
        "register",
    }  # tables and register list the iterations themselves
    second = run(tmp_path)
    assert second.is_completed(), second.message
    assert (
        second.message == "6 stages ran, 14 were cached."
    )  # train, generate, score, tables, report, register

    # Removing an iteration's outputs does the same, with the same result.
    before = read_json(tmp_path / "outputs/tables/test/summary.json")
    for folder in ("opponents", "checkpoints", "samples/test", "scores/test"):
        shutil.rmtree(tmp_path / "outputs" / folder / "iter2")
    ran = dvc(tmp_path, "repro")
    assert "opponents@iter2" in ran
    assert "train@iter1" not in [
        line.split("'")[1] for line in ran.splitlines() if line.startswith("Running stage")
    ]
    assert read_json(tmp_path / "outputs/tables/test/summary.json") == before
    assert os.path.exists(tmp_path / "outputs/checkpoints/iter2/unet/config.json")
