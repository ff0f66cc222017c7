"""The DVC stage runner: what it does with a stage that is current, fails, is blocked, or must be ended."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("dvc")

from spin.errors import FileError
from spin.runtime.provenance import recorded_outputs
from tasks import process, stage
from tasks.locks import mend_torn_list
from tasks.project import Project, TornProjectError
from tests.processes import alive

MakeProject = Callable[[str], Path]


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_a_stage_runs_once_and_is_current_until_its_output_is_gone(dvc_project: MakeProject) -> None:
    root = dvc_project("stages:\n  data: {cmd: echo made > out, outs: [out]}\n")
    project = Project(root)
    assert project.is_stale("data")
    assert stage.reproduce("data", project, print).ran
    assert not project.is_stale("data")
    (root / "out").unlink()
    assert project.is_stale("data")


def test_only_what_the_stage_says_is_passed_on(dvc_project: MakeProject) -> None:
    root = dvc_project("stages:\n  data: {cmd: echo step 1/3 && echo made > out, outs: [out]}\n")
    lines: list[str] = []
    stage.reproduce("data", Project(root), lines.append)
    assert lines == ["step 1/3"]


def test_bad_input_is_told_in_the_stages_own_sentence(dvc_project: MakeProject) -> None:
    sentence = "spin: train.beta must be > 0, got -1; set it."
    root = dvc_project(f"stages:\n  data: {{cmd: 'echo \"{sentence}\" && exit 2', outs: [out]}}\n")
    with pytest.raises(stage.BadInputError, match=r"^data: train.beta must be > 0, got -1; set it\.$"):
        stage.reproduce("data", Project(root), print)


def test_a_crash_is_not_bad_input_and_may_be_retried(dvc_project: MakeProject) -> None:
    root = dvc_project("stages:\n  data: {cmd: echo oh && exit 1, outs: [out]}\n")
    with pytest.raises(
        stage.StageError, match=r"^data ended with exit code 1; its last line was: oh$"
    ) as raised:
        stage.reproduce("data", Project(root), print)
    assert not isinstance(raised.value, stage.BadInputError)


def test_a_stage_waits_while_another_dvc_process_holds_the_lock(dvc_project: MakeProject) -> None:
    root = dvc_project("stages:\n  data: {cmd: echo made > out, outs: [out]}\n")
    hold = (
        "import time; from dvc.repo import Repo, lock_repo\n"
        "with lock_repo(Repo()): print('held', flush=True); time.sleep(4)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=root, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        stage.reproduce("data", Project(root), print)
    assert (root / "out").read_text() == "made\n"


def test_the_work_of_a_stage_is_recorded_though_another_dvc_process_holds_the_lock_at_its_end(
    dvc_project: MakeProject,
) -> None:
    root = dvc_project(
        "stages:\n  data: {cmd: 'touch begun; sleep 3; echo x >> runs; echo made > out', outs: [out]}\n"
    )
    hold = (
        "import time; from pathlib import Path; from dvc.repo import Repo, lock_repo\n"
        "repo = Repo()\n"
        "while not Path('begun').exists(): time.sleep(0.1)\n"
        "with lock_repo(repo): time.sleep(9)"  # longer than DVC's own patience
    )
    project = Project(root)
    with subprocess.Popen([sys.executable, "-c", hold], cwd=root):
        stage.reproduce("data", project, print)
    assert not project.is_stale("data")
    assert (root / "runs").read_text() == "x\n", "not run again for want of the lock"


def test_a_stage_over_its_time_limit_is_ended_with_its_children(dvc_project: MakeProject) -> None:
    root = dvc_project(f"stages:\n  data: {{cmd: {sys.executable} sleep.py, outs: [out]}}\n")
    (root / "sleep.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    lines: list[str] = []
    with pytest.raises(stage.StageError, match="ran longer than 6 s"):
        stage.reproduce("data", Project(root, timeout=6.0), lines.append)
    assert wait_until(lambda: not alive(int(lines[0])))


SLEEPER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_cancelling_ends_the_whole_group(tmp_path: Path) -> None:
    pids: list[int] = []
    ended: list[process.Exit] = []

    def work() -> None:
        ended.append(
            process.run([sys.executable, "-c", SLEEPER], tmp_path, lambda line: pids.append(int(line)))
        )

    thread = threading.Thread(target=work)
    thread.start()
    assert wait_until(lambda: bool(pids))
    process.end_all()
    thread.join(15)
    assert ended[0].code == 128 + 15
    assert wait_until(lambda: not alive(pids[0]))


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    started = time.monotonic()
    ended = process.run([sys.executable, "-c", code], tmp_path, print, timeout=2.0, grace_seconds=1.0)
    assert ended.timed_out
    assert ended.code == 128 + 9
    assert time.monotonic() - started < 15


def test_nothing_outlives_a_caller_that_is_killed(tmp_path: Path) -> None:
    caller = (
        "import sys; from pathlib import Path; from tasks import process\n"
        f"process.run([sys.executable, '-c', {SLEEPER!r}], Path(), lambda line: print(line, flush=True))"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", caller], cwd=root, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        grandchild = int(killed.stdout.readline())
        killed.kill()
    assert wait_until(lambda: not alive(grandchild))


def test_a_torn_lock_is_one_sentence_with_the_way_out(dvc_project: MakeProject) -> None:
    root = dvc_project("stages:\n  data: {cmd: echo x > data, outs: [data]}\n")
    for torn in ("stages: [", "schema: '2.0'\nstages:\n  data:\n    cm"):
        (root / "dvc.lock").write_text(torn)
        with pytest.raises(
            TornProjectError, match=r"dvc\.lock must read .* `git checkout dvc\.lock`"
        ) as refused:
            Project(root).graph()
        assert "\n" not in str(refused.value)
        with pytest.raises(FileError, match=r"dvc\.lock must read .* `git checkout dvc\.lock`"):
            recorded_outputs(root)


@pytest.mark.parametrize("torn", ["", '{"write": {"a'])
def test_dvcs_torn_list_of_readers_and_writers_holds_nothing_up(dvc_project: MakeProject, torn: str) -> None:
    root = dvc_project("stages:\n  data: {cmd: echo made > out, outs: [out]}\n")
    project, listed = Project(root), root / ".dvc" / "tmp" / "rwlock"
    assert stage.reproduce("data", project, print).ran
    listed.write_text(torn)
    assert not project.is_stale("data"), "a question of the flow"
    (root / "out").unlink()
    (root / "dvc.lock").unlink()
    listed.write_text(torn)
    stage.reproduce("data", project, print)  # a command
    assert (root / "out").is_file()


def test_a_list_that_reads_is_left_as_it_is(dvc_project: MakeProject) -> None:
    root = dvc_project("stages:\n  data: {cmd: echo made > out, outs: [out]}\n")
    listed = root / ".dvc" / "tmp" / "rwlock"
    assert not mend_torn_list(root), "none is there yet"
    listed.write_text('{"read": {}, "write": {"/a": {"pid": 1, "cmd": "dvc"}}}')
    assert not mend_torn_list(root)
    assert listed.is_file()
    listed.write_text("[")
    assert mend_torn_list(root)
    assert not listed.exists()
