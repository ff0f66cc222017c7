"""A flow refuses what its stages would look for in vain, before the first of them runs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("dvc")
pytest.importorskip("prefect")

import flows  # noqa: F401  (switches before Prefect)
from flows.forms import Running
from flows.order import needed_for
from flows.refusal import unreachable_input
from flows.spin_diffusion import bring_up_to_date
from tasks.project import Project
from tests.hub import offline_cache
from tests.models.tiny import miniature_params, write_params

MakeProject = Callable[[str], Path]
STAGES = """
stages:
  data: {cmd: echo x >> tries && echo data > data, outs: [data]}
  score: {cmd: echo x >> tries && cat data > scores, deps: [data], outs: [scores]}
"""


@pytest.fixture
def root(dvc_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A miniature project whose parameters ask for a scorer of the hub, which is away."""
    folder = dvc_project(STAGES)
    offline_cache(tmp_path / "cache", monkeypatch)
    raw = miniature_params(Path("embedded"))
    raw["scorers"]["hps"] = {"source": "hub"}
    write_params(folder, raw)
    return folder


def refused(root: Path, targets: list[str] | None = None) -> str | None:
    project = Project(root)
    return unreachable_input(project, needed_for(project.graph(), targets))


def test_a_scorer_that_cannot_be_had_is_asked_for_by_stages_that_judge_and_are_out_of_date(
    root: Path,
) -> None:
    said = refused(root)
    assert said is not None
    assert said.startswith("scorers.hps.source must be a folder or a repository that the hub has")
    assert refused(root, ["data"]) is None
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)
    assert refused(root) is None, "a flow with nothing to do needs no network"
    (root / "data").unlink()
    assert refused(root) is not None, "what judges waits for it"


def test_a_flow_refuses_it_before_any_stage(root: Path) -> None:
    state = bring_up_to_date(root, None, Running())
    assert state.name == "BadInput"
    assert state.message is not None
    assert state.message.startswith("scorers.hps.source must be a folder or a repository that the hub has")
    assert not (root / "tries").exists()


def test_a_cluster_without_a_manifest_is_refused_before_any_stage(
    dvc_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = dvc_project(STAGES)
    write_params(root, miniature_params(Path("embedded")))
    monkeypatch.setenv("SPIN_TRAINJOB", str(root / "absent.yaml"))
    state = bring_up_to_date(root, None, Running())
    assert state.name == "BadInput"
    assert state.message is not None
    assert state.message.startswith("SPIN_TRAINJOB must name a manifest, and ")
    assert not (root / "tries").exists()
