"""MLflow remembers the stages and the registry, and never costs a stage its result."""

import hashlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from spin.params.schema import Params
from spin.runtime.provenance import content_md5, git_revision, recorded_md5s
from spin.tracking.configuration import configuration_hash, flatten
from spin.tracking.connection import connected
from spin.tracking.outbox import entries
from spin.tracking.runs import stage_run

ROOT = Path(__file__).resolve().parents[2]


def runs(root: Path, experiment: str, where: str = "") -> list[Any]:
    with connected(root) as client:
        found = client.get_experiment_by_name(experiment)
        return list(client.search_runs([found.experiment_id], where))


def test_a_rerun_is_a_new_child_of_the_same_parent_and_the_newest_is_tagged(
    store: Path, params: Params
) -> None:
    curve = [{"step": step, "loss": 0.7 - step / 100, "margin": float("nan")} for step in range(1, 1201)]
    (store / "weights").write_text("w")
    for _ in range(2):
        with stage_run(params, "train@iter1", store) as run:
            run.metrics(curve)
            run.params({"beta": 10000.0})
            run.outputs(Path("weights"))
            run.parent_metric({"win_rate": 0.6}, step=1)
    experiment = params.tracking.experiment
    (parent,) = runs(store, experiment, "tags.`spin.kind` = 'self-play'")
    children = runs(store, experiment, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert sorted(child.data.tags["spin.newest"] for child in children) == ["false", "true"]
    assert parent.data.params["iterations.iter1.beta"] == str(params.iterations["iter1"].beta)
    assert parent.data.metrics == {"win_rate": 0.6}
    child = children[0]
    assert child.info.run_name == "train@iter1"
    assert child.info.status == "FINISHED"
    assert child.data.tags["spin.iteration"] == "1"
    assert child.data.tags["dvc.out.weights"] == hashlib.md5(b"w").hexdigest()
    assert set(child.data.metrics) == {"loss"}, "NaN is left out"
    with connected(store) as client:
        history = client.get_metric_history(child.info.run_id, "loss")
    assert [point.step for point in history] == list(range(1, 1201)), "more than one batch, none lost"


def test_pictures_datasets_and_the_prefect_run_are_kept(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIN_PREFECT_RUN_ID", "a-run")
    (store / "grid.png").write_bytes(b"png")
    with stage_run(params, "report", store) as run:
        run.image(store / "grid.png")
        run.dataset("training images", store / "grid.png", {"count": 3})
    (child,) = runs(store, params.tracking.experiment, "tags.`spin.stage` = 'report'")
    assert child.data.tags["prefect.run"] == "a-run"
    assert child.inputs.dataset_inputs[0].dataset.digest == content_md5(store / "grid.png")
    assert (store / ".spin/mlflow/artifacts" / child.info.run_id / "artifacts/images/grid.png").is_file()


def test_an_unreachable_server_costs_one_warning(
    store: Path, params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "spin.tracking.runs"), stage_run(params, "tables@test", store):
        pass
    (record,) = [each for each in caplog.records if each.name == "spin.tracking.runs"]
    assert record.getMessage().startswith("MLflow was not told of tables@test (")
    assert record.getMessage().endswith("and the next stage or `spin sync` tells it.")
    (waiting,) = entries(store)
    assert waiting.stage == "tables@test"


def test_a_failed_stage_keeps_its_own_error_and_its_run_says_so(store: Path, params: Params) -> None:
    with pytest.raises(ZeroDivisionError), stage_run(params, "tables@test", store):
        raise ZeroDivisionError("by nothing")
    (run,) = runs(store, params.tracking.experiment, "tags.`spin.stage` = 'tables@test'")
    assert (run.info.status, run.data.tags["spin.error"]) == ("FAILED", "by nothing")
    assert run.data.tags["spin.newest"] == "false"


def test_without_the_library_and_when_switched_off_a_stage_ends_well(tmp_path: Path) -> None:
    code = f"""
import importlib.machinery, importlib.util, os, sys
from pathlib import Path
sys.modules["mlflow"] = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("mlflow", None))
from spin.params.schema import load_params
from spin.tracking.runs import stage_run
for switch in ("on", "off"):
    os.environ["SPIN_TRACKING"] = switch
    with stage_run(load_params(Path("profiles/toy.yaml")), "tables", Path({str(tmp_path)!r})) as run:
        run.metric({{"a": 1.0}})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("MLflow is not installed")


def test_configuration_hash_ignores_names_of_mlflow_and_sees_every_value(params: Params) -> None:
    renamed = params.tracking.model_copy(update={"experiment": "other"})
    assert configuration_hash(params.model_copy(update={"tracking": renamed})) == configuration_hash(params)
    assert configuration_hash(params.model_copy(update={"seed": params.seed + 1})) != configuration_hash(
        params
    )
    assert flatten(params.model_dump())["training.adam_betas"] == "0.9, 0.999"


def test_content_md5_is_dvcs_own(tmp_path: Path) -> None:
    pytest.importorskip("dvc")
    folder = tmp_path / "out"
    (folder / "b" / "c").mkdir(parents=True)
    for name in ("z", "b.txt", "b/x", "b/c/é"):
        (folder / name).write_text(name, encoding="utf-8")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*dvc, "add", "-q", "out"], cwd=tmp_path, check=True)
    (entry,) = yaml.safe_load((tmp_path / "out.dvc").read_text())["outs"]
    assert content_md5(folder) == entry["md5"]


def test_recorded_md5s_and_git_revision_are_empty_where_there_is_nothing(tmp_path: Path) -> None:
    assert recorded_md5s(tmp_path) == {}
    assert git_revision(tmp_path) == ("unknown", False)


def test_a_store_that_cannot_be_opened_costs_one_warning(
    params: Params, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with stage_run(params, "train@iter1", store) as run:
        run.metric({"loss": 0.5})
    assert "MLflow was not told of train@iter1" in caplog.text


def test_a_store_that_stays_locked_costs_one_warning(
    params: Params, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("spin.tracking.connection.LOCK_SECONDS", 0.1)
    folder = store / ".spin" / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "write.lock"), stage_run(params, "train@iter1", store) as run:
        run.metric({"loss": 0.5})
    assert "MLflow was not told of train@iter1" in caplog.text
