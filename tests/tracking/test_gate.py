"""The gate: what is not shown to be better does not become champion, and a promotion can be undone."""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spin.errors import TrackingError
from spin.params.schema import Params
from spin.runtime.files import read_json
from spin.runtime.provenance import content_md5
from spin.stages.registry import registered_name
from spin.tools.promote import _score_anew, run_promote, run_rollback
from spin.tracking.connection import connected
from tests.evaluation.fake_scores import score_frame, write_scores
from tests.tracking.conftest import (
    CHECKPOINTS,
    SCORES,
    parameters,
    play,
    put_checkpoint,
    put_scores,
    versions,
)


def command(model: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(params=Path("params.yaml"), model=model)


def champion(root: Path, name: str) -> Any:
    with connected(root) as client:
        return client.get_model_version_by_alias(name, "champion").tags["dvc.md5"]


def md5_of(listed: dict[str, Any], model: str) -> str:
    return str(next(entry["md5"] for entry in listed["models"] if entry["model"] == model))


@pytest.fixture
def promoted(project: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The project's registry with iter2 as champion, and its scores in DVC's cache."""
    for arguments in (["init", "--no-scm", "-q"], ["add", "-q", *map(str, sorted(SCORES.glob("*/*")))]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, check=True)
    listed = play(tiny_base, project)
    run_promote(command())
    said = capsys.readouterr().out
    assert re.fullmatch(r"iter2 \(.*over base \[.*: it is the champion now\.\n", said)
    assert champion(project, listed["name"]) == md5_of(listed, "iter2")
    return listed


def retrain(tiny_base: Path, root: Path, like: str, **changes: float) -> dict[str, Any]:
    """Another iter2, whose images are scored as those of `like`."""
    put_checkpoint("iter2", 0.9)
    put_scores("iter2", like, **changes)
    return play(tiny_base, root)


def test_an_iteration_that_learned_nothing_is_not_promoted(
    promoted: dict[str, Any], project: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = retrain(tiny_base, project, "base")
    run_promote(command("iter2"))
    assert "the interval is not above one half; version 2, iter2 stays." in capsys.readouterr().out
    assert champion(project, listed["name"]) == md5_of(promoted, "iter2")
    newest = versions(project, listed["name"])[-1]
    assert newest.tags["gate.promoted"] == "false"
    assert float(newest.tags["gate.win_rate"]) < 0.5
    with connected(project) as client:
        assert client.get_model_version_by_alias(listed["name"], "challenger").version == newest.version


def test_with_no_champion_an_iteration_that_learned_nothing_meets_the_base_and_stays_outside(
    project: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("iter1", "iter2"):
        write_scores(SCORES / name, score_frame("base"))
    play(tiny_base, project)
    run_promote(command())
    assert "wins 50.0% over base" in capsys.readouterr().out


def test_a_better_one_is_promoted_and_a_rollback_restores(
    promoted: dict[str, Any], project: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = retrain(tiny_base, project, "iter3", pickscore=3.0, hps=0.1, image_reward=3.0)
    run_promote(command())
    assert "over version 2, iter2 [" in capsys.readouterr().out
    assert champion(project, listed["name"]) == md5_of(listed, "iter2") != md5_of(promoted, "iter2")
    run_rollback(command())
    assert "Version 3, iter2, is no longer the champion" in capsys.readouterr().out
    assert champion(project, listed["name"]) == md5_of(promoted, "iter2")
    run_rollback(command())
    assert "nobody is champion" in capsys.readouterr().out
    with pytest.raises(TrackingError, match="must have a champion to roll back"):
        run_rollback(command())


def test_a_better_one_that_lost_alignment_is_not_promoted(
    promoted: dict[str, Any], project: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retrain(tiny_base, project, "iter3", pickscore=3.0, hps=0.1, image_reward=3.0, clip=-0.1)
    run_promote(command("iter2"))
    assert (
        "standard deviations of alignment (at most 0.1); version 2, iter2 stays." in capsys.readouterr().out
    )
    assert champion(project, promoted["name"]) == md5_of(promoted, "iter2")


def test_the_champion_is_drawn_anew_where_its_scores_are_gone(
    promoted: dict[str, Any],
    project: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[dict[str, str]] = []

    def score_anew(params: Params, tags: dict[str, str], prompt_set: str) -> Path:
        asked.append(tags)
        write_scores(Path("anew"), score_frame("iter2"))
        return Path("anew")

    monkeypatch.setattr("spin.tools.promote._score_anew", score_anew)
    retrain(tiny_base, project, "base")
    shutil.rmtree(project / ".dvc/cache")
    run_promote(command("iter2"))
    assert [tags["dvc.md5"] for tags in asked] == [md5_of(promoted, "iter2")]


def test_a_champion_drawn_anew_has_no_image_of_another_protocol(project: Path, tiny_base: Path) -> None:
    params, prompts = parameters(tiny_base), Path("outputs/prompts/test.parquet")
    params = params.model_copy(update={"scorers": {"aesthetic": params.scorers["aesthetic"]}})
    pd.read_parquet(prompts).head(2).to_parquet(prompts)
    champion = {"dvc.path": "outputs/checkpoints/iter2", "dvc.md5": content_md5(CHECKPOINTS / "iter2")}
    found = []
    for guidance in (3.0, 1.0, 3.0):
        evaluate = params.evaluate.model_copy(update={"guidance_scale": guidance})
        drawn = _score_anew(params.model_copy(update={"evaluate": evaluate}), champion, "test")
        assert read_json(drawn / "summary.json")["protocol"]["guidance_scale"] == guidance
        found.append(pd.read_parquet(drawn / "scores.parquet")["aesthetic"].tolist())
    assert found[0] == found[2] != found[1]
    asked = {"test": params.prompt_sets["test"].model_copy(update={"images_per_prompt": 2})}
    drawn = _score_anew(params.model_copy(update={"prompt_sets": asked}), champion, "test")
    twice = pd.read_parquet(drawn / "scores.parquet")["aesthetic"].tolist()
    assert twice[::2] == pytest.approx(found[0], abs=0.01), "the set's own number, the same first images"
    assert len(twice) == 4


def test_what_cannot_be_compared_never_shares_a_registered_model(project: Path, tiny_base: Path) -> None:
    first = play(tiny_base, project)["name"]
    assert first.startswith("spin-diffusion-base-")
    for name in ("base", "iter1", "iter2"):
        write_scores(SCORES / name, score_frame(name), guidance_scale=5.0)
    second = play(tiny_base, project)["name"]
    model = Path("outputs/checkpoints/base/model.json")
    model.with_name("spin.sha256").unlink(missing_ok=True)  # which would say that the file was changed
    model.write_text(model.read_text().replace('"unet": "', '"unet": "0'))
    third = registered_name(parameters(tiny_base))
    assert len({first, second, third}) == 3
