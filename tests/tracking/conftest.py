"""A project with two iterations that are scored, tabled and registered, without a training."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spin.evaluation.tables import write_tables
from spin.models.checkpoint import load_denoiser, save_checkpoint
from spin.params.schema import Params, load_params
from spin.runtime.files import read_json
from spin.stages.data import run_base
from spin.stages.registry import run_register
from spin.stages.stage import Item
from spin.stages.table import STAGES
from spin.tracking.connection import connected
from spin.tracking.runs import stage_run
from tests.evaluation.fake_scores import score_frame, write_scores
from tests.models.tiny import miniature_params, write_params

ROOT = Path(__file__).resolve().parents[2]
SCORES, CHECKPOINTS = Path("outputs/scores/test"), Path("outputs/checkpoints")


def parameters(base: Path) -> Params:
    raw = miniature_params(base)
    raw["baselines"] = {}
    raw["evaluate"] |= {"models": ["base", "iter1", "iter2"], "references": []}
    raw["tables"]["over"] = ["base"]
    return Params.model_validate(raw)


def put_checkpoint(name: str, change: float) -> None:
    """The base with another weight."""
    denoiser = load_denoiser(CHECKPOINTS / "base")
    denoiser.conv_out.bias.data += change
    shutil.rmtree(CHECKPOINTS / name, ignore_errors=True)
    (CHECKPOINTS / name).mkdir()
    save_checkpoint(CHECKPOINTS / name, name, denoiser, CHECKPOINTS / "base")


def put_scores(name: str, like: str = "", **changes: float) -> None:
    """Scores of a model, drawn as those of `like`, with some scorers moved."""
    frame = score_frame(like or name)
    for scorer, change in changes.items():
        frame[scorer] += change
    write_scores(SCORES / name, frame)


def play(base: Path, root: Path) -> dict[str, Any]:
    """Table and register what is scored; returns what registry.json has."""
    params, stage = parameters(base), STAGES["register"]
    write_tables(params, SCORES, Path("outputs/tables/test"))
    with stage_run(params, "register", root) as run:
        run_register(params)
        stage.tell(run, params, Item())
    listed: dict[str, Any] = read_json(Path("outputs/registry/registry.json"))
    return listed


def versions(root: Path, name: str) -> list[Any]:
    with connected(root) as client:
        found = client.search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda version: int(version.version))


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """iter2 is better than iter1, iter1 than the base."""
    pytest.importorskip("mlflow", minversion="3")
    for name in ("MLFLOW_TRACKING_URI", "SPIN_TRACKING", "SPIN_PREFECT_RUN_ID", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    params = parameters(tiny_base)
    write_params(root, params.model_dump(mode="json"))
    run_base(params)
    for number, name in enumerate(params.iterations, start=1):
        put_checkpoint(name, number / 10)
    for name in params.evaluate.models:
        put_scores(name)
    prompts = Path("outputs/prompts/test.parquet")
    prompts.parent.mkdir(parents=True)
    asked = score_frame("base").drop_duplicates("prompt_id")
    pd.DataFrame(asked[["prompt_id", "prompt", "category"]]).to_parquet(prompts)
    return root


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "profiles" / "toy.yaml")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, in it, that looks at MLflow often."""
    pytest.importorskip("mlflow", minversion="3")
    for name in ("MLFLOW_TRACKING_URI", "SPIN_TRACKING", "SPIN_PREFECT_RUN_ID", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("spin.tracking.live.SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.chdir(tmp_path)
    return tmp_path
