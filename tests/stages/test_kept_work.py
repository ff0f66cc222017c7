"""Finished work is not lost before DVC has recorded it, and does not stay after that."""

import resource
import shutil
import time
from pathlib import Path

import pytest
import yaml

import spin.data.writer
import spin.rewards.scoring
import spin.stages.work
import spin.training.loop
from spin import paths
from spin.errors import DamagedError
from spin.runtime.files import sha256_tree
from spin.stages.data import run_prompt_set
from spin.stages.kept_work import MARK
from spin.stages.sample import run_generate, run_opponents
from spin.stages.train import run_train
from tests.stages.kept import flip, record, works
from tests.stages.projects import parameters, prepare
from tests.training.two_processes import in_two_processes

CHECKPOINT = Path("outputs/checkpoints/iter1")


@pytest.fixture
def inside(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(tmp_path, tiny_base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_dvc_did_not_record_is_there_again_without_an_update(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "dvc.yaml").touch()
    params = parameters(tiny_base, training={"checkpoint_every": 3})  # the last update is the fourth
    run_train(params, "iter1")
    before, curve = sha256_tree(CHECKPOINT), Path("outputs/curves/iter1.csv").read_bytes()

    # DVC's cache had no room: at its next start it removes the output and runs the stage again.
    CHECKPOINT.rename(inside / "gone")
    with monkeypatch.context() as patch:
        patch.setattr(spin.training.loop, "_update", lambda *_: pytest.fail("trained again"))
        run_train(params, "iter1")
    assert sha256_tree(CHECKPOINT) == before
    assert Path("outputs/curves/iter1.csv").read_bytes() == curve

    # Recorded: the next stage that starts removes the work, and a forced run trains anew.
    assert works() == {"train"}
    record(CHECKPOINT)
    run_opponents(params, "iter2")
    assert works() == {"opponents"}


def test_another_output_of_that_name_in_dvc_lock_keeps_the_work(inside: Path, tiny_base: Path) -> None:
    (inside / "dvc.yaml").touch()
    params = parameters(tiny_base)
    run_train(params, "iter1")
    record(CHECKPOINT)
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    lock["stages"]["some"]["outs"][0]["size"] += 1
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    run_opponents(params, "iter2")
    assert works() == {"train", "opponents"}


@pytest.mark.parametrize("torn", ["", "{", "[]", "{}"])
def test_a_damaged_mark_keeps_the_work_and_stops_no_stage(inside: Path, tiny_base: Path, torn: str) -> None:
    (inside / "dvc.yaml").touch()
    params = parameters(tiny_base)
    run_train(params, "iter1")
    record(CHECKPOINT)
    (mark,) = Path(".spin/work").glob(f"*/{MARK}")
    mark.write_text(torn)
    run_opponents(params, "iter2")
    assert works() == {"train", "opponents"}


def test_a_training_that_is_as_large_as_the_recorded_one_is_kept(inside: Path, tiny_base: Path) -> None:
    (inside / "dvc.yaml").touch()
    run_train(parameters(tiny_base), "iter1")
    record(CHECKPOINT)
    other = parameters(tiny_base, iterations={"iter1": {"learning_rate": 0.5}})
    run_train(other, "iter1")
    run_opponents(other, "iter2")
    assert works() == {"train", "opponents"}, "the recorded one is another"
    record(CHECKPOINT)
    run_opponents(other, "iter2")
    assert works() == {"opponents"}


def test_kept_shards_that_are_damaged_are_drawn_again(inside: Path, tiny_base: Path) -> None:
    (inside / "dvc.yaml").touch()
    params = parameters(tiny_base)
    out = Path("outputs/opponents/iter1")
    before = sha256_tree(out)
    run_opponents(params, "iter1")
    for file in sorted(out.glob("shard-*/latents.safetensors"))[:2]:
        flip(file)  # in the kept work as well, by its second name
    shutil.rmtree(out)
    run_opponents(params, "iter1")
    assert sha256_tree(out) == before


def test_kept_images_that_are_damaged_are_drawn_again(inside: Path, tiny_base: Path) -> None:
    (inside / "dvc.yaml").touch()
    params, samples = parameters(tiny_base, evaluate={"batch_size": 1}), paths.SAMPLES / "test" / "base"
    run_prompt_set(params, "test")
    run_generate(params, "test", "base")
    before = sha256_tree(samples)
    shutil.rmtree(samples)
    flip(next(Path(".spin/work").glob("generate-test-base-*/batch-*/00002-0.png")))
    run_generate(params, "test", "base")
    assert sha256_tree(samples) == before


def test_no_process_looks_at_kept_work_before_the_first_has_removed_what_dvc_recorded(
    inside: Path, tiny_base: Path
) -> None:
    (inside / "dvc.yaml").touch()
    params, samples = parameters(tiny_base, evaluate={"batch_size": 1}), paths.SAMPLES / "test" / "base"
    run_prompt_set(params, "test")
    run_generate(params, "test", "base")
    before, remove = sha256_tree(samples), spin.stages.work.remove_recorded
    record(samples)

    def slowly() -> None:  # meanwhile another process would find its images there
        time.sleep(1.0)
        remove()

    def again(rank: int) -> None:
        spin.stages.work.remove_recorded = slowly
        run_generate(params, "test", "base")

    in_two_processes(inside, again)
    assert sha256_tree(samples) == before


def test_a_disk_that_is_full_at_a_step_checkpoint_says_so_and_the_rerun_goes_on(
    inside: Path, tiny_base: Path
) -> None:
    params = parameters(tiny_base)
    run_train(params, "iter1")
    unbroken = sha256_tree(CHECKPOINT)
    params = parameters(tiny_base, training={"checkpoint_every": 2})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            run_train(params, "iter1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(Path(".spin/work").glob("train-iter1-*/state-*")), "nothing half-written"
    run_train(params, "iter1")
    assert sha256_tree(CHECKPOINT) == unbroken


@pytest.mark.parametrize("file", ["shard-*.safetensors", "training.json"])
def test_a_damaged_step_checkpoint_is_not_trained_on(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (inside / "dvc.yaml").touch()
    params = parameters(tiny_base)
    run_train(params, "iter1")
    (state,) = Path(".spin/work").glob("train-iter1-*/state-*")
    flip(next(state.glob(file)))
    with pytest.raises(DamagedError, match=rf"{state}/{file[:5]}.* but holds others .*rm -r"):
        run_train(params, "iter1")


def test_without_dvc_no_work_stays(inside: Path, tiny_base: Path) -> None:
    run_train(parameters(tiny_base), "iter1")
    assert not list(Path(".spin/work").glob("*"))
