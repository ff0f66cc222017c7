"""The model registry gives a model: a version per checkpoint, loaded by pyfunc in a clone that has only the remote."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spin.stages.registry import describe_models
from spin.tracking.connection import connected
from spin.tracking.runs import stage_run
from tests.tracking.conftest import parameters, play, put_checkpoint, versions


def dvc(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments, "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_registering_twice_adds_no_version_and_new_weights_add_one(project: Path, tiny_base: Path) -> None:
    name = play(tiny_base, project)["name"]
    play(tiny_base, project)
    assert [version.tags["model"] for version in versions(project, name)] == ["iter1", "iter2"]
    put_checkpoint("iter2", 0.7)
    listed = play(tiny_base, project)
    assert [version.tags["model"] for version in versions(project, name)] == ["iter1", "iter2", "iter2"]
    with connected(project) as client:
        assert str(client.get_model_version_by_alias(name, "challenger").version) == "3"
    assert [entry["champion"] for entry in listed["models"]] == [False, True]


def test_a_version_knows_the_run_that_trained_it_and_how_it_did(project: Path, tiny_base: Path) -> None:
    with stage_run(parameters(tiny_base), "train@iter2", project) as run:
        run.outputs(Path("outputs/checkpoints/iter2"))
    listed = play(tiny_base, project)
    with connected(project) as client:
        version = client.get_model_version_by_alias(listed["name"], "challenger")
        assert client.get_run(version.run_id).info.run_name == "train@iter2"
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert logged.source_run_id == version.run_id
    (rate,) = [metric for metric in logged.metrics if metric.key == "win_rate_over_base.average"]
    expected = listed["models"][1]["win_rate_over_base"]["average"]
    assert (rate.value, rate.dataset_name) == (pytest.approx(expected), "test")


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
    name = play(tiny_base, project)["name"]

    # Another place, with DVC's configuration and nothing else.
    clone = tmp_path / "clone"
    (clone / ".dvc").mkdir(parents=True)
    shutil.copy(project / ".dvc/config", clone / ".dvc/config")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / '.spin/mlflow/mlflow.db'}")
    monkeypatch.chdir(clone)
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{project / '.spin/mlflow/mlflow.db'}")
    model = mlflow.pyfunc.load_model(f"models:/{name}@challenger")
    (drawn,) = model.predict(["a red circle"])
    assert (drawn.shape, drawn.dtype) == ((32, 32, 3), np.uint8)
    again = model.predict(["a red circle", "a blue square"])
    assert np.array_equal(again[0], drawn)
    assert not np.array_equal(model.predict(["a red circle"], params={"seed": 1})[0], drawn)
    assert list((clone / ".spin/models").glob("*/iter2/model.json")), "brought by DVC"
    assert Path(
        mlflow.artifacts.download_artifacts(f"models:/{name}@challenger/data/data/dvc.lock")
    ).is_file()

    # Without the remote: one sentence.
    shutil.rmtree(tmp_path / "remote")
    shutil.rmtree(clone / ".spin")
    shutil.rmtree(clone / ".dvc/cache", ignore_errors=True)
    with pytest.raises(Exception, match=r"iter2 must be in DVC's cache or remote as \w+\.dir, but"):
        mlflow.pyfunc.load_model(f"models:/{name}@challenger")


def test_missing_checkpoints_are_told_in_one_sentence(project: Path, tiny_base: Path) -> None:
    play(tiny_base, project)
    shutil.rmtree("outputs/checkpoints/iter2")
    with pytest.raises(
        Exception, match=r"iter2 must be a checkpoint, found none; run the stage train@iter2 first\."
    ):
        describe_models(parameters(tiny_base))
