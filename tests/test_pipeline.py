"""The real pipeline, whole, at miniature size: through the flow, then through DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("dvc")
pytest.importorskip("prefect")

import flows.environment  # noqa: F401  (switches before Prefect)
from flows.spin_diffusion import spin_diffusion
from spin.runtime.code import code_of
from spin.runtime.files import read_json
from spin.stages.table import STAGES
from tests.models.tiny import copy_project, miniature_params, write_params


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


SEEN = """
import atexit, contextlib, json, os, sys, types

cost = types.ModuleType("spin.stages.cost")
cost.recorded_cost = lambda *stage: contextlib.nullcontext()
sys.modules[cost.__name__] = cost

def tell():
    if sys.argv[0].endswith(("spin/__main__.py", "-m")) or "spin.cli" in sys.modules:
        names = sorted(name for name in sys.modules if name.partition(".")[0] == "spin" and name != cost.__name__)
        with open(os.path.join(os.environ["SPIN_SEEN"], f"{os.getpid()}.json"), "w") as file:
            json.dump({"command": sys.argv[1:], "modules": names}, file)

atexit.register(tell)
"""
"""A sitecustomize.py: every `python -m spin` writes down the modules that it imported for its work; what that cost, which
is counted when it is done and makes no output, would load the code of all models."""


SHARED = {
    f"spin.{name}"
    for name in (
        "stages.work",
        "stages.kept_work",
        "runtime.provenance",
        "runtime.devices",
        "runtime.progress",
        "runtime.shards",
    )
}
"""Loaded with a stage's module for the sake of other stages in it."""


def loaded_by_stage(folder: Path) -> dict[str, set[str]]:
    """Stage -> modules that its commands loaded."""
    loaded: dict[str, set[str]] = {}
    for file in folder.glob("*.json"):
        seen = read_json(file)
        stage = seen["command"][0].replace("-", "_")
        stage = "baseline" if "dpo" in seen["command"] and stage == "train" else stage
        loaded[stage] = loaded.get(stage, set()) | set(seen["modules"])
    return loaded


def run(root: Path) -> Any:
    return spin_diffusion(root=root, return_state=True)


def write_project(root: Path, base: Path) -> dict[str, Any]:
    """Make `root` a miniature of the project, and return its parameters."""
    raw = miniature_params(base)
    raw["baselines"] = {"dpo": raw["baselines"]["dpo"]}
    raw["evaluate"] |= {"models": ["base", "dpo", "iter1", "iter2"], "references": []}
    raw["scorers"] = {name: raw["scorers"][name] for name in ("aesthetic", "oracle_psnr")}
    raw["tables"] |= {"average_of": ["aesthetic"], "over": ["base"]}
    copy_project(root, raw)
    dvc(root, "init", "--no-scm", "-q")
    return raw


def write_down_modules(root: Path, patch: pytest.MonkeyPatch) -> None:
    """From here on every command of `spin` leaves the modules that it imported in the folder `seen`."""
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(SEEN)
    (root / "seen").mkdir()
    patch.setenv("PYTHONPATH", str(root / "site"))
    patch.setenv("SPIN_SEEN", str(root / "seen"))


def the_first_run_makes_everything(root: Path) -> None:
    first = run(root)
    assert first.is_completed(), first.message
    assert first.message == "21 stages ran, 0 were cached."


def the_outputs_name_their_models(root: Path) -> None:
    summary = read_json(root / "outputs/tables/test/summary.json")
    assert summary["champion"] in ("iter1", "iter2")
    assert set(summary["win_rate_over_base"]) >= {"dpo", "iter1", "iter2"}
    assert (root / "outputs/report/report.html").stat().st_size > 10_000
    registry = read_json(root / "outputs/registry/registry.json")
    assert [entry["model"] for entry in registry["models"]] == ["iter1", "iter2"]


def dvc_agrees_that_nothing_is_left_to_do(root: Path) -> None:
    assert "up to date" in dvc(root, "status")
    assert "up to date" in dvc(root, "repro")


def a_stage_depends_on_what_its_command_loads(root: Path) -> None:
    """Beyond what every command loads."""
    loaded = loaded_by_stage(root / "seen")
    assert loaded.keys() == STAGES.keys() - {"released", "reference", "continual"}
    always = loaded["code"].union(
        *(code_of(f"spin.{name}") for name in ("stages.preflight", "tracking.stage_log"))
    )
    always |= set(code_of("spin.tracking.runs"))  # what is refused before the work and what is told after it
    for name in loaded.keys() - {"code"}:
        modules, depends_on = loaded[name], read_json(root / f"outputs/code/{name}.json")
        missing = modules - always - SHARED - set(depends_on) - {STAGES[name].module}
        assert not missing, f"{name} runs code that it does not depend on: {sorted(missing)}"


def comments_in_a_model_family_retrain_nothing(root: Path) -> None:
    """A comment, a docstring and a blank line."""
    family = root / "spin/models/stable_diffusion.py"
    text = family.read_text()
    commented = text.replace(
        "        dtype = next(", "        # In the network's own format.\n\n        dtype = next("
    )
    family.write_text(commented.replace('"""The UNet\'s prediction', '"""What the UNet predicts, as it is'))
    ran = dvc(root, "repro")
    assert [line for line in ran.splitlines() if line.startswith("Running")] == ["Running stage 'code':"]
    again = run(root)
    assert again.message == "0 stages ran, 21 were cached."
    family.write_text(text)


def a_constant_in_a_model_family_makes_stale_what_it_takes_part_in(root: Path) -> None:
    family = root / "spin/models/stable_diffusion.py"
    text = family.read_text()
    family.write_text(
        text.replace("self.tokenizer.model_max_length)", "self.tokenizer.model_max_length - 1)")
    )
    dvc(root, "repro", "code")
    to_do = stale(root)
    assert {"cache", "opponents@iter1", "train@iter1", "generate@test-base"} <= to_do
    assert not {"data", "prompt_set@test", "score@test-base", "tables@test"} & to_do
    family.write_text(text)
    dvc(root, "repro", "code")
    assert "up to date" in dvc(root, "status")


def stale(root: Path) -> set[str]:
    """Stages whose inputs, parameters or outputs changed; what waits for those is not among them."""
    return {line.split(":")[0] for line in dvc(root, "status").splitlines() if line and not line[0].isspace()}


def another_learning_rate_reruns_its_iteration_and_what_follows(root: Path, raw: dict[str, Any]) -> None:
    raw["iterations"]["iter2"]["learning_rate"] = 2e-3
    write_params(root, raw)
    lists_the_iterations = {"tables@test", "register"}
    assert stale(root) == {"train@iter2"} | lists_the_iterations
    second = spin_diffusion(root=root, targets=["train@iter2"], return_state=True)
    assert second.is_completed(), second.message
    assert second.message == "1 stages ran, 7 were cached."
    assert stale(root) == {"generate@test-iter2", "report"} | lists_the_iterations, (
        "its weights and its curve"
    )


def removed_outputs_are_made_again_the_same(root: Path) -> None:
    before = read_json(root / "outputs/tables/test/summary.json")
    for folder in ("opponents", "checkpoints", "samples/test", "scores/test"):
        shutil.rmtree(root / "outputs" / folder / "iter2")
    ran = dvc(root, "repro")
    assert "opponents@iter2" in ran
    assert "train@iter1" not in [
        line.split("'")[1] for line in ran.splitlines() if line.startswith("Running stage")
    ]
    assert read_json(root / "outputs/tables/test/summary.json") == before
    assert os.path.exists(root / "outputs/checkpoints/iter2/unet/config.json")


def an_empty_mlflow_is_filled_from_the_outputs(root: Path, raw: dict[str, Any]) -> None:
    """As by somebody who has them by `dvc pull`."""
    command = [sys.executable, "-m", "spin", "sync", "--all"]
    env = {**os.environ, "SPIN_TRACKING": "on"}
    done = subprocess.run(command, cwd=root, env=env, check=True, capture_output=True, text=True)
    told = [line.removeprefix("told: ") for line in done.stdout.splitlines() if line.startswith("told: ")]
    assert len(told) == len(set(told)) == 20, done.stdout  # all but `code`
    again = subprocess.run(command, cwd=root, env=env, check=True, capture_output=True, text=True)
    assert again.stdout == "Nothing waits.\n"
    database = f"sqlite:///{root}/.spin/mlflow/mlflow.db"
    client = pytest.importorskip("mlflow").MlflowClient(database, registry_uri=database)
    experiment = client.get_experiment_by_name(raw["tracking"]["experiment"]).experiment_id
    (trained,) = client.search_runs([experiment], "tags.`spin.stage` = 'train@iter2'")
    curve = pd.read_csv(root / "outputs/curves/iter2.csv")
    history = client.get_metric_history(trained.info.run_id, "loss")
    assert {point.step: point.value for point in history} == dict(
        zip(curve["step"], curve["loss"], strict=True)
    )
    listed = read_json(root / "outputs/registry/registry.json")
    version = client.get_model_version_by_alias(listed["name"], "challenger")
    assert client.get_run(version.run_id).info.run_name == f"train@{version.tags['model']}"


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("prefect_server")
def test_the_whole_loop_and_what_a_change_reruns(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIN_TRACKING", "off")  # test_tracking holds what MLflow is told
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SPIN_WARM", "")  # what a stage loads is written down by its own process
    raw = write_project(tmp_path, tiny_base)
    with monkeypatch.context() as patch:
        write_down_modules(tmp_path, patch)
        the_first_run_makes_everything(tmp_path)
    the_outputs_name_their_models(tmp_path)
    dvc_agrees_that_nothing_is_left_to_do(tmp_path)
    a_stage_depends_on_what_its_command_loads(tmp_path)
    comments_in_a_model_family_retrain_nothing(tmp_path)
    a_constant_in_a_model_family_makes_stale_what_it_takes_part_in(tmp_path)
    removed_outputs_are_made_again_the_same(tmp_path)
    an_empty_mlflow_is_filled_from_the_outputs(tmp_path, raw)
    another_learning_rate_reruns_its_iteration_and_what_follows(tmp_path, raw)
