"""A flow refuses what its stages would look for in vain, before the first of them runs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("dvc")
pytest.importorskip("prefect")

import flows  # noqa: F401  (switches before Prefect)
from flows.refusal import unreachable_input
from flows.spin_diffusion import spin_diffusion
from tasks.project import Project
from tests.hub import offline_cache
from tests.models.tiny import miniature_params, write_params

MakeProject = Callable[[str], Path]
STAGES = """
stages:
  data: {cmd: echo x >> tries && echo data > data, outs: [data]}
  score: {cmd: echo x >> tries && cat data > scores, deps: [data], outs: [scores]}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_scorer_that_cannot_be_had_is_refused_before_any_stage_and_asked_for_by_no_other_run(
    dvc_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = dvc_project(STAGES)
    offline_cache(tmp_path / "cache", monkeypatch)
    raw = miniature_params(Path("embedded"))
    raw["scorers"]["hps"] = {"source": "hub"}
    write_params(root, raw)
    state = spin_diffusion(root=root, return_state=True)
    assert state.name == "BadInput"
    assert state.message.startswith("scorers.hps.source must be here or to be had from the hub")
    assert not (root / "tries").exists()

    # What does not judge is run, and a flow with nothing to do asks for nothing.
    assert spin_diffusion(root=root, targets=["data"], return_state=True).is_completed()
    project = Project(root)
    assert unreachable_input(project, project.graph()) is not None
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)
    project.forget()
    assert unreachable_input(project, project.graph()) is None
