"""The flow on miniature DVC projects: order, what is cached, what a failure holds up, and parity with DVC."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import yaml

pytest.importorskip("dvc")
pytest.importorskip("prefect")

import flows  # noqa: F401  (switches before Prefect)
from flows.order import UnknownStageError, distance_to_end, evaluated_up_to, needed_for
from flows.spin_diffusion import TASKS, kind, spin_diffusion, task_for

ROOT = Path(__file__).resolve().parents[2]
MakeProject = Callable[[str], Path]
MINIATURE = """
stages:
  data: {cmd: echo data > data, outs: [data]}
  opponents:
    foreach: {iter1: data, iter2: iter1}
    do: {cmd: 'cat ${item} > opponents_${key} && echo o >> opponents_${key}', deps: ['${item}'], outs: ['opponents_${key}']}
  train:
    foreach: {iter1: data, iter2: iter1}
    do: {cmd: 'cat opponents_${key} > ${key} && echo t >> ${key}', deps: ['opponents_${key}'], outs: ['${key}']}
  tables: {cmd: cat iter1 iter2 > tables, deps: [iter1, iter2], outs: [tables]}
"""


def run(root: Path, **parameters: Any) -> Any:
    return spin_diffusion(root=root, **parameters, return_state=True)


def test_the_server_api_imports() -> None:
    import prefect.server.api.server  # noqa: F401  (fails on a fastapi newer than the pin)


def test_every_dvc_stage_has_its_task() -> None:
    pipeline = ROOT / "dvc.yaml"
    if not pipeline.is_file():
        pytest.skip("no dvc.yaml beside the tests")
    kinds = set(yaml.safe_load(pipeline.read_text("utf-8"))["stages"])
    assert kinds == set(TASKS)


def test_tasks_are_named_by_their_kind_and_never_cached_by_prefect() -> None:
    for name, stage_task in TASKS.items():
        assert stage_task.task_run_name == "{stage}", name
        assert type(stage_task.cache_policy).__name__ == "_None", name
        assert stage_task.retries, name
    assert {name for name, each in TASKS.items() if "gpu" in each.tags} == {
        *("cache", "opponents", "train", "baseline", "generate", "score", "reference", "continual")
    }


def test_the_longest_way_to_the_end_goes_first() -> None:
    graph = nx.DiGraph([("train", "opponents"), ("opponents", "data"), ("table", "train"), ("sft", "data")])
    assert distance_to_end(graph) == {"data": 3, "opponents": 2, "train": 1, "table": 0, "sft": 0}


def test_targets_bring_what_they_wait_for_and_name_groups() -> None:
    graph = nx.DiGraph([("train@iter2", "train@iter1"), ("train@iter1", "data"), ("tables", "train@iter2")])
    assert set(needed_for(graph, ["train@iter1"])) == {"train@iter1", "data"}
    assert set(needed_for(graph, ["train"])) == {"train@iter1", "train@iter2", "data"}
    assert set(needed_for(graph, None)) == set(graph)
    with pytest.raises(UnknownStageError, match=r"targets must name stages of dvc\.yaml, got tarin"):
        needed_for(graph, ["tarin"])


def test_up_to_an_iteration_is_its_training_and_the_scores_of_what_comes_before_it() -> None:
    played = ["base", "iter1", "iter2", "iter3"]
    graph = nx.DiGraph(
        (f"train@{name}", f"train@{before}") for before, name in pairwise(played) if before != "base"
    )
    graph.add_edges_from(
        (f"score@{prompts}-{name}", "data") for prompts in ("test", "val_2") for name in [*played, "sft"]
    )
    assert evaluated_up_to(graph, "iter2") == [
        "train@iter2",
        *("score@test-base", "score@test-iter1", "score@test-iter2"),
        *("score@val_2-base", "score@val_2-iter1", "score@val_2-iter2"),
    ]
    with pytest.raises(UnknownStageError, match="one of the iterations iter1, iter2, iter3, got sft;"):
        evaluated_up_to(graph, "sft")


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_after_a_flow_dvc_has_nothing_to_do_and_a_second_flow_is_all_cached(dvc_project: MakeProject) -> None:
    root = dvc_project(MINIATURE)
    assert run(root).message == "6 stages ran, 0 were cached."
    assert (root / "tables").read_text() == "data\no\nt\ndata\no\nt\no\nt\n"
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=root, capture_output=True, text=True, check=True
    )
    assert "up to date" in status.stdout
    assert run(root).message == "0 stages ran, 6 were cached."
    (root / "iter2").unlink()
    assert run(root).message == "0 stages ran, 1 came from DVC's cache or remote, 5 were cached."


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_failed_stage_holds_up_its_dependants_only_and_is_told_in_one_sentence(
    dvc_project: MakeProject,
) -> None:
    broken = MINIATURE.replace(
        "'cat opponents_${key}",
        "'test ${key} = iter1 || (echo spin: no beta; exit 2) && cat opponents_${key}",
    )
    root = dvc_project(broken)
    state = run(root)
    assert state.is_failed()
    assert state.message == "train@iter2: no beta. 1 stages that wait for it were not run."
    assert (root / "iter1").exists()
    assert not (root / "tables").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_an_unknown_target_and_a_stage_without_task_are_refused(dvc_project: MakeProject) -> None:
    root = dvc_project("stages:\n  polish: {cmd: echo a > a, outs: [a]}\n")
    assert re.search("got tarin;", run(root, targets=["tarin"]).message)
    assert re.search("dvc.yaml has stages polish without a task", run(root).message)
    assert kind("polish") not in TASKS


SHOWN = """
stages:
  tables:
    foreach: [val_set]
    do: {cmd: 'mkdir -p outputs/tables/${item} && echo "| iter1 | **0.61** |" > outputs/tables/${item}/winrate_over_base.md', outs: ['outputs/tables/${item}']}
  report: {cmd: mkdir -p outputs/report && cp grid.png outputs/report/, deps: [outputs/tables], outs: [outputs/report]}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_flow_shows_the_tables_and_the_grid(dvc_project: MakeProject) -> None:
    from PIL import Image
    from prefect.artifacts import Artifact

    root = dvc_project(SHOWN)
    Image.new("RGB", (3000, 20), "teal").save(root / "grid.png")
    assert run(root).is_completed()
    tables, grid = Artifact.get(key="tables-val-set"), Artifact.get(key="grid")
    assert tables is not None
    assert "| iter1 | **0.61** |" in str(tables.data)
    assert grid is not None
    assert str(grid.data).startswith("![")
    assert len(str(grid.data)) < 50_000


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_ctrl_c_ends_every_child_and_the_same_command_goes_on(dvc_project: MakeProject) -> None:
    from prefect.settings import PREFECT_API_URL

    wait = "if test -e quick; then touch made; else echo x >> tries; echo $$ > child; exec sleep 300; fi"
    root = dvc_project(f"stages:\n  data: {{cmd: '{wait}', outs: [made]}}\n")
    command = [sys.executable, "-m", "flows", "--root", str(root)]
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest's workers ignore it
    ) as process:
        deadline = time.monotonic() + 120
        while not (root / "child").is_file() or not (root / "child").read_text().strip():
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child = int((root / "child").read_text())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted; the stages under way were ended" in said
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert (root / "tries").read_text() == "x\n", "what was ended is not started again"

    (root / "quick").touch()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert (root / "made").is_file()


def test_a_stage_with_nothing_to_do_takes_no_gpu_slot() -> None:
    class Project:
        def is_stale(self, stage: str) -> bool:
            return stage == "train@iter2"

    assert task_for("train@iter2", Project()).tags == {"gpu"}  # type: ignore[arg-type]
    assert task_for("train@iter1", Project()).tags == set()  # type: ignore[arg-type]
    assert TASKS["train"].tags == {"gpu"}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_only_what_another_try_may_mend_is_tried_again(dvc_project: MakeProject) -> None:
    root = dvc_project(
        "stages:\n"
        "  data: {cmd: 'echo x >> tries_data; exit 2', outs: [data]}\n"
        "  base: {cmd: 'echo x >> tries_base; echo No space left on device; exit 1', outs: [base]}\n"
        "  cache: {cmd: 'echo x >> tries_cache; exit 130', outs: [cache]}\n"
        "  tables: {cmd: 'echo x >> tries_tables; kill -TERM $$', outs: [tables]}\n"
        "  report: {cmd: 'echo x >> tries_report; exit 1', outs: [report]}\n"
    )
    state = run(root)
    assert state.is_failed()
    tries = {each.name[6:]: each.read_text().count("x") for each in root.glob("tries_*")}
    assert tries == {"data": 1, "base": 1, "cache": 1, "tables": 1, "report": 2}
    assert "cache was interrupted" in state.message
    assert "base had no room on the disk" in state.message


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_shows_its_progress_while_it_runs(dvc_project: MakeProject) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter

    said = "train iter1: {}/64 updates, 2.3/s, 6 s left, loss 0.4"
    root = dvc_project(
        f'stages:\n  report: {{cmd: \'echo "{said.format(16)}"; echo "{said.format(48)}"; echo x > r\', outs: [r]}}\n'
    )
    assert run(root).is_completed()
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter.model_validate({"key": {"any_": ["progress-report"]}})
        (artifact,) = client.read_artifacts(artifact_filter=wanted)
    assert artifact.data == 75.0
    assert artifact.description == said.format(48)
