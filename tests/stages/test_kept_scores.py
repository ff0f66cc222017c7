"""An image is judged once: a killed score stage goes on, and a finished one is kept until DVC has recorded it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import spin.rewards.scoring
from spin import paths
from spin.params.schema import Params
from spin.runtime.files import read_json, sha256_tree
from spin.runtime.sums import write_sums
from spin.stages.data import run_prompt_set
from spin.stages.sample import run_generate, run_opponents
from spin.stages.score import run_score
from tests.models.tiny import write_params
from tests.stages.kept import flip, record, works
from tests.stages.projects import parameters, prepare, raw_parameters
from tests.training.running import launch

SCORES = Path("outputs/scores/test/base")


@pytest.fixture
def inside(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(tmp_path, tiny_base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scored_by(params: Params, *scorers: str) -> Params:
    return params.model_copy(update={"scorers": {name: params.scorers[name] for name in scorers}})


def opening(judged: list[str], killed_at: int | None = None) -> Callable[[Path], Any]:
    """Open images and list them; killed when so many are listed."""
    original = spin.rewards.scoring.open_image

    def opened(path: Path) -> Any:
        if len(judged) == killed_at:
            raise KeyboardInterrupt
        judged.append(path.name)
        return original(path)

    return opened


def test_scores_are_kept_until_they_are_recorded_and_a_killed_run_goes_on(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "dvc.yaml").touch()
    params = parameters(tiny_base, evaluate={"batch_size": 1}, prompt_sets={"test": {"images_per_prompt": 2}})
    params = scored_by(params, "clip", "oracle_psnr")
    monkeypatch.setattr(spin.rewards.scoring, "SHARD_SIZE", 1)
    run_prompt_set(params, "test")
    run_generate(params, "test", "base")
    assert read_json(paths.SAMPLES / "test/base/protocol.json")["images_per_prompt"] == 2, (
        "the set's own number"
    )
    judged: list[str] = []

    # Killed after two of eight images; the scores and embedding of one of these are damaged.
    with monkeypatch.context() as patch:
        patch.setattr(spin.rewards.scoring, "open_image", opening(judged, killed_at=2))
        with pytest.raises(KeyboardInterrupt):
            run_score(params, "test", "base")
    assert not SCORES.exists()
    flip(next(Path(".spin/work").glob("score-test-base-*/shard-00001/scores.parquet")))
    with monkeypatch.context() as patch:
        patch.setattr(spin.rewards.scoring, "open_image", opening(judged))
        run_score(params, "test", "base")
    again = [
        "00000-0",
        "00000-1",
        "00000-1",
        *(f"0000{prompt}-{image}" for prompt in (1, 2, 3) for image in (0, 1)),
    ]
    assert [name.removesuffix(".png") for name in judged] == again
    assert (pd.read_parquet(SCORES / "scores.parquet").groupby("prompt_id")["diversity"].nunique() == 1).all()
    before = sha256_tree(SCORES)

    # DVC had no room: it removes both outputs and runs the stage again.
    for name in ("scores.parquet", "summary.json"):
        (SCORES / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(spin.rewards.scoring, "open_image", lambda _: pytest.fail("judged again"))
        run_score(params, "test", "base")
    assert sha256_tree(SCORES) == before
    assert "score" in works()
    record(SCORES / "scores.parquet", SCORES / "summary.json")
    run_opponents(params, "iter1")
    assert "score" not in works()

    # In one go, without kept work: the same bytes.
    monkeypatch.setattr(spin.rewards.scoring, "SHARD_SIZE", 256)
    shutil.rmtree(SCORES)
    run_score(params, "test", "base")
    assert sha256_tree(SCORES) == before


@pytest.mark.slow
def test_two_processes_score_what_one_does(inside: Path, tiny_base: Path) -> None:
    raw = raw_parameters(
        tiny_base, tables={"average_of": ["clip"]}, prompt_sets={"test": {"images_per_prompt": 2}}
    )
    raw["scorers"] = {name: raw["scorers"][name] for name in ("clip", "oracle_psnr")}
    write_params(inside, raw)
    params = Params.model_validate(raw)
    run_prompt_set(params, "test")
    run_generate(params, "test", "base")
    run_score(params, "test", "base")
    assert pd.read_parquet(SCORES / "scores.parquet")["diversity"].gt(0).all()
    before = sha256_tree(SCORES)
    shutil.rmtree(SCORES)
    launch(inside, "score", "--prompts", "test", "--name", "base")
    assert sha256_tree(SCORES) == before
    assert not list(Path(".spin/work").glob("score-*"))


def test_other_images_or_scorers_are_scored_anew(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "dvc.yaml").touch()
    params = scored_by(parameters(tiny_base), "oracle_psnr")
    run_prompt_set(params, "test")
    run_generate(params, "test", "base")
    run_score(params, "test", "base")
    params = scored_by(parameters(tiny_base), "aesthetic")
    run_score(params, "test", "base")
    assert "aesthetic" in pd.read_parquet(SCORES / "scores.parquet")
    before = pd.read_parquet(SCORES / "scores.parquet")["aesthetic"]
    samples = paths.SAMPLES / "test" / "base"
    Image.new("RGB", (32, 32), "green").save(samples / "images" / "00001-0.png")
    write_sums(samples)
    run_score(params, "test", "base")
    assert (pd.read_parquet(SCORES / "scores.parquet")["aesthetic"] != before).tolist() == [
        False,
        True,
        False,
        False,
    ]
