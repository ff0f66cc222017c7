"""The model registry gives a model: a version per checkpoint, loaded by pyfunc in a clone that has only the remote."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spin.models.checkpoint import load_denoiser, save_checkpoint
from spin.params.schema import Params
from spin.runtime.files import read_json, write_json
from spin.stages.data import run_base
from spin.stages.registry import describe_models, run_register
from spin.stages.stage import Item
from spin.stages.table import STAGES
from spin.tracking.connection import connected
from spin.tracking.runs import stage_run
from tests.models.tiny import miniature_params, write_params


def dvc(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments, "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose two iterations are the base with another weight each, kept by DVC and pushed to a folder."""
    pytest.importorskip("mlflow", minversion="3")
    pytest.importorskip("dvc")
    for name in ("MLFLOW_TRACKING_URI", "SPIN_TRACKING", "SPIN_PREFECT_RUN_ID", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    root.mkdir()
    write_params(root, miniature_params(tiny_base))
    monkeypatch.chdir(root)
    params = parameters(tiny_base)
    run_base(params)
    for number, name in enumerate(params.iterations, start=1):
        put_checkpoint(name, number / 10)
    rates = {
        name: {"average": 60.0 + n, "low": 55.0, "high": 65.0} for n, name in enumerate(params.iterations)
    }
    write_json(Path("outputs/tables/test/summary.json"), {"champion": "iter2", "win_rate_over_base": rates})
    return root


def parameters(base: Path) -> Params:
    return Params.model_validate(miniature_params(base))


def put_checkpoint(name: str, change: float) -> None:
    denoiser = load_denoiser(Path("outputs/checkpoints/base"))
    denoiser.conv_out.bias.data += change  # type: ignore[union-attr,operator]
    folder = Path("outputs/checkpoints") / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_checkpoint(folder, name, denoiser, Path("outputs/checkpoints/base"))


def write_prompts() -> None:
    file = Path("outputs/prompts/test.parquet")
    file.parent.mkdir(parents=True)
    pd.DataFrame({"prompt_id": ["a"], "prompt": ["a red circle"], "category": [""]}).to_parquet(file)


def register(root: Path, base: Path) -> None:
    stage, params = STAGES["register"], parameters(base)
    with stage_run(params, "register", root) as run:
        run_register(params)
        stage.tell(run, params, Item())


def versions(root: Path, name: str) -> list[Any]:
    with connected(root) as client:
        found = client.search_model_versions(f"name = '{name}'")
        return sorted(found, key=lambda version: int(version.version))


def test_registering_twice_adds_no_version_and_new_weights_add_one(project: Path, tiny_base: Path) -> None:
    name = parameters(tiny_base).tracking.registered_model
    register(project, tiny_base)
    register(project, tiny_base)
    assert [version.tags["model"] for version in versions(project, name)] == ["iter1", "iter2"]
    put_checkpoint("iter2", 0.7)
    register(project, tiny_base)
    assert [version.tags["model"] for version in versions(project, name)] == ["iter1", "iter2", "iter2"]
    with connected(project) as client:
        assert str(client.get_model_version_by_alias(name, "champion").version) == "3"
    listed = read_json(project / "outputs/registry/registry.json")
    assert [entry["champion"] for entry in listed["models"]] == [False, True]


def test_a_version_knows_the_run_that_trained_it_and_how_it_did(project: Path, tiny_base: Path) -> None:
    params = parameters(tiny_base)
    with stage_run(params, "train@iter2", project) as run:
        run.outputs(Path("outputs/checkpoints/iter2"))
    register(project, tiny_base)
    with connected(project) as client:
        version = client.get_model_version_by_alias(params.tracking.registered_model, "champion")
        assert client.get_run(version.run_id).info.run_name == "train@iter2"
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert logged.source_run_id == version.run_id
    (rate,) = [metric for metric in logged.metrics if metric.key == "win_rate_over_base.average"]
    assert (rate.value, rate.dataset_name) == (61.0, "test")


@pytest.mark.slow
def test_the_champion_loads_in_a_clone_that_has_only_the_remote_and_draws(
    project: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where it was made: kept by DVC, pushed, registered.
    dvc(project, "init", "--no-scm")
    dvc(project, "remote", "add", "-d", "store", str(tmp_path / "remote"))
    dvc(project, "add", "outputs/checkpoints/iter1", "outputs/checkpoints/iter2")
    dvc(project, "push")
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    register(project, tiny_base)

    # Another place, with DVC's configuration and nothing else.
    clone = tmp_path / "clone"
    (clone / ".dvc").mkdir(parents=True)
    shutil.copy(project / ".dvc/config", clone / ".dvc/config")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / '.spin/mlflow/mlflow.db'}")
    monkeypatch.chdir(clone)
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{project / '.spin/mlflow/mlflow.db'}")
    name = parameters(tiny_base).tracking.registered_model
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    (drawn,) = model.predict(["a red circle"])
    assert (drawn.shape, drawn.dtype) == ((32, 32, 3), np.uint8)
    again = model.predict(["a red circle", "a blue square"])
    assert np.array_equal(again[0], drawn)
    assert not np.array_equal(model.predict(["a red circle"], params={"seed": 1})[0], drawn)
    assert list((clone / ".spin/models").glob("*/iter2/model.json")), "brought by DVC"
    assert Path(mlflow.artifacts.download_artifacts(f"models:/{name}@champion/data/data/dvc.lock")).is_file()

    # Without the remote: one sentence.
    shutil.rmtree(tmp_path / "remote")
    shutil.rmtree(clone / ".spin")
    shutil.rmtree(clone / ".dvc/cache", ignore_errors=True)
    with pytest.raises(Exception, match=r"iter2 must be in DVC's cache or remote as \w+\.dir, but"):
        mlflow.pyfunc.load_model(f"models:/{name}@champion")


def test_missing_checkpoints_are_told_in_one_sentence(project: Path, tiny_base: Path) -> None:
    shutil.rmtree("outputs/checkpoints/iter2")
    with pytest.raises(
        Exception, match=r"iter2 must be a checkpoint, found none; run the stage train@iter2 first\."
    ):
        describe_models(parameters(tiny_base))
