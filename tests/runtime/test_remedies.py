"""The sentence about a damaged file ends with the command that makes it again."""

import os
import shlex
from pathlib import Path

import pytest
import yaml

from spin.params.schema import Params, load_params
from spin.runtime.remedies import command_for, remedy
from spin.stages.stage import Item
from spin.stages.table import STAGES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lock(stage: str, *outs: str) -> None:
    """A dvc.lock that knows one stage."""
    entry = {"outs": [{"path": out, "md5": "0", "size": 1} for out in outs]}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {stage: entry}}))


def made(name: str, linked: bool = False) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    if linked:
        Path(".dvc/cache").mkdir(parents=True)
        os.link(path, ".dvc/cache/object")
        path.chmod(0o444)
    return path


ITEMS = {
    "released": Item("spin_iter3"),
    "train": Item("iter1"),
    "baseline": Item("sft"),
    "opponents": Item("iter1"),
    "prompt_set": Item("test"),
    "generate": Item("iter1", "test"),
    "score": Item("iter1", "test"),
    "reference": Item("clean", "test"),
    "tables": Item("", "test"),
    "continual": Item("f5"),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_place_tells_the_command_of_the_stage_that_makes_it(stage: object) -> None:
    params: Params = load_params(ROOT / "profiles" / "toy.yaml")
    item = ITEMS.get(stage.name, Item())
    if stage.name == "generate":
        made("outputs/samples/test/iter1/model.json")
    if stage.name in ("train", "baseline"):
        made(f"outputs/checkpoints/{item.name}/unet/config.json")
    wanted = [stage.command]
    wanted += ["--prompts", item.prompts] * bool(item.prompts) + ["--name", item.name] * bool(item.name)
    for out in stage.files(stage.makes, params, item):
        place = out if out.suffix else out / "file.json"
        if stage.name == "reference" and out.parts[1] == "scores":
            continue  # what `score` makes of its images is the same
        assert shlex.split(command_for(Path(), place) or "") == wanted, place


def test_of_an_output_that_dvc_knows_it_is_the_stage_by_force() -> None:
    lock("baseline@sft", "outputs/checkpoints/sft", "outputs/curves/sft.csv")
    again = "`dvc repro -f -s baseline@sft` makes it again"
    model = made("outputs/checkpoints/sft/model.json")
    assert remedy(model) == f"`rm -f {model} && dvc checkout {model}` brings back DVC's copy, or {again}"
    assert again in remedy(made("outputs/curves/sft.csv"))
    assert remedy(made("outputs/checkpoints/dpo/unet/config.json")) == (
        "`python -m spin train --name dpo` makes it again"
    ), "DVC has not recorded it"


def test_where_dvcs_cache_has_the_same_file_that_goes_first() -> None:
    lock("cache", "outputs/cache")
    shard = made("outputs/cache/latents/shard-00000/posteriors.safetensors", linked=True)
    command = f'find -L "$(dvc cache dir)" -samefile {shard} -delete; dvc repro -f -s cache'
    assert remedy(shard) == f"`{command}` makes it again"
    shard.chmod(0o644)  # a second name in .spin/ is no link of DVC's
    assert "brings back DVC's copy" in remedy(shard)
    shard.unlink()
    shard.symlink_to("object")
    assert "-samefile" in remedy(shard)


def test_from_elsewhere_it_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("outputs/checkpoints/iter1/unet/config.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert remedy(Path("../outputs/checkpoints/iter1/model.json")) == (
        f"in {tmp_path} `python -m spin train --name iter1` makes it again"
    )


def test_unfinished_work_is_removed_and_a_persons_file_is_theirs() -> None:
    assert remedy(Path(".spin/work/train-iter1-0/snapshots/step-2/model.json")) == (
        "`rm -r .spin/work/train-iter1-0` and run the same command again"
    )
    assert remedy(Path("mine/model.json")) == "copy it again, or make it again with its stage"
    assert remedy(Path("outputs/notes.json")) == "copy it again, or make it again with its stage"


def test_a_torn_lock_does_not_hide_the_damage() -> None:
    Path("dvc.lock").write_text("{")
    assert remedy(made("outputs/cache/cache.json")) == "`python -m spin cache` makes it again"
