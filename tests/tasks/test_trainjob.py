"""A stage as a TrainJob: its pods do the work, it says what they say, and nothing of it is left on the cluster."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("prefect_kubernetes", reason="the extra `kubernetes` is not installed")

from spin.errors import ParamsError
from spin.runtime.files import read_json
from tasks.manifest import manifest_asked
from tests.stages.projects import prepare
from tests.stages.test_launch import PLACES
from tests.tasks.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "TrainJob",
    "metadata": {"namespace": "research", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
    "spec": {
        "runtimeRef": {"name": "torch-distributed"},
        "trainer": {
            "image": "registry.example.com/spin",
            "numNodes": 2,
            "env": [{"name": "SPIN_TRACKING", "value": "off"}],
        },
    },
}
RunStage = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for name in list(made.jobs):
        made.remove(name)
    made.shutdown()


@pytest.fixture
def run_stage(cluster: Cluster, tmp_path: Path) -> RunStage:
    """Start `tasks.trainjob`, or all of `spin` from which it comes, in the test's folder."""

    def start(*command: str) -> "subprocess.Popen[str]":
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(MANIFEST))
        if not (tmp_path / "params.yaml").exists():
            (tmp_path / "params.yaml").write_text("seed: 0\n")
        clean = {key: value for key, value in os.environ.items() if key not in PLACES}
        clean |= {"SPIN_TRAINJOB": str(tmp_path / "job.yaml"), "KUBECONFIG": str(cluster.kubeconfig())}
        clean |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=tmp_path, env=clean, stderr=subprocess.PIPE, text=True
        )

    return start


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_pods_train_together_and_the_output_is_in_place(
    cluster: Cluster, run_stage: RunStage, tiny_base: Path, tmp_path: Path
) -> None:
    prepare(tmp_path, tiny_base)
    process = run_stage("spin", "train", "--name", "iter1")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert read_json(tmp_path / "outputs/cost/train@iter1.json")["processes"] == 2
    assert (tmp_path / "outputs/checkpoints/iter1/model.json").is_file()
    (body,) = cluster.posted
    assert body["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "gpus"}, "the manifest's own stays"
    assert body["metadata"]["name"].startswith("spin-train-name-iter1-")
    assert "train iter1" in said, "the first pod's progress is told"


def test_what_the_pods_refuse_is_bad_input_in_their_words(cluster: Cluster, run_stage: RunStage) -> None:
    refused = "import sys; sys.exit(print('spin: training.batch_size must be above 0, got -1.', file=sys.stderr) or 2)"
    cluster.instead = [sys.executable, "-c", refused]
    process = run_stage("tasks.trainjob", "train", "--name", "iter1")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.splitlines()[-1] == "spin: training.batch_size must be above 0, got -1."
    assert not cluster.jobs, "what failed was told, and is taken away"


def test_a_stage_that_is_ended_takes_its_pods_along(cluster: Cluster, run_stage: RunStage) -> None:
    cluster.instead = ["sleep", "600"]
    process = run_stage("tasks.trainjob", "train", "--name", "iter1")
    wait_until(lambda: cluster.posted)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not cluster.jobs


def test_after_a_kill_the_same_work_is_found_again_and_other_work_is_replaced(
    cluster: Cluster, run_stage: RunStage, tmp_path: Path
) -> None:
    cluster.instead = ["sleep", "600"]
    for changes in (False, False, True):
        if changes:
            (tmp_path / "params.yaml").write_text("seed: 1\n")
        process = run_stage("tasks.trainjob", "train", "--name", "iter1")
        assert process.stderr is not None
        assert process.stderr.readline(), "submitted, or found"
        process.kill()
        process.wait()
        assert len(cluster.posted) == 1 + changes
    assert len(cluster.jobs) == 1


def test_stages_of_one_long_beginning_have_jobs_of_their_own(
    cluster: Cluster, run_stage: RunStage, tmp_path: Path
) -> None:
    cluster.instead = ["sleep", "600"]
    started = [
        run_stage(
            "tasks.trainjob", "generate", "--prompts", "a_set_with_a_long_name", "--name", f"iter{number}"
        )
        for number in (1, 2)
    ]
    wait_until(lambda: len(cluster.jobs) == 2)
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert not cluster.jobs


def test_who_was_replaced_says_so_and_leaves_the_other_job_alone(
    cluster: Cluster, run_stage: RunStage, tmp_path: Path
) -> None:
    cluster.instead = ["sleep", "600"]
    first = run_stage("tasks.trainjob", "train", "--name", "iter1")
    wait_until(lambda: cluster.jobs)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    second = run_stage("tasks.trainjob", "train", "--name", "iter1")
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "removed from the cluster" in said or "for another start of this stage" in said
    wait_until(lambda: len(cluster.posted) == 2 and cluster.jobs)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=60)


@pytest.mark.parametrize(
    "manifest", ["a text", {**MANIFEST, "kind": "PyTorchJob"}, {**MANIFEST, "spec": None}]
)
def test_another_manifest_is_refused_in_one_sentence(
    manifest: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    monkeypatch.setenv("SPIN_TRAINJOB", str(tmp_path / "job.yaml"))
    with pytest.raises(ParamsError, match="SPIN_TRAINJOB must name a TrainJob of"):
        manifest_asked()
