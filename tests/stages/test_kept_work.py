"""A finished training is not lost before DVC has recorded it, and its work does not stay after that."""

from pathlib import Path

import pytest
import yaml

import spin.training.loop
from spin.runtime.files import sha256_tree
from spin.runtime.provenance import content_md5
from spin.stages.kept_work import MARK
from spin.stages.sample import run_opponents
from spin.stages.train import run_train
from tests.stages.projects import parameters, prepare

CHECKPOINT = Path("outputs/checkpoints/iter1")


def record(out: Path) -> None:
    """What DVC writes into dvc.lock of a finished stage."""
    files = [file for file in out.rglob("*") if file.is_file()]
    entry = {"path": out.as_posix(), "md5": content_md5(out), "nfiles": len(files)}
    entry["size"] = sum(file.stat().st_size for file in files)
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train@iter1": {"outs": [entry]}}}))


def works() -> set[str]:
    return {mark.parent.name.split("-")[0] for mark in Path(".spin/work").glob(f"*/{MARK}")}


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
    lock["stages"]["train@iter1"]["outs"][0]["size"] += 1
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


def test_without_dvc_no_work_stays(inside: Path, tiny_base: Path) -> None:
    run_train(parameters(tiny_base), "iter1")
    assert not list(Path(".spin/work").glob("*"))
