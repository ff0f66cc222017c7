"""What cannot be compared is refused, with what differs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spin.cli import main
from spin.errors import EvaluationError, FileError
from spin.evaluation.results import load_results
from spin.runtime.files import read_json, write_json
from tests.evaluation.fake_scores import LEVEL, score_frame, write_run, write_scores
from tests.evaluation.toy_params import PROFILE, params


def edit(path: Path, change: Any) -> None:
    frame = pd.read_parquet(path)
    change(frame)
    frame.to_parquet(path)


@pytest.mark.parametrize(("key", "value"), [("guidance_scale", 7.5), ("seed", 1), ("scheduler", "pndm")])
def test_other_protocols_are_refused_with_what_differs(scores: Path, key: str, value: Any) -> None:
    write_scores(scores / "iter1", score_frame("iter1", 24), **{key: value})
    with pytest.raises(
        EvaluationError, match=rf"iter1 and base cannot .* protocol has {key} {value} for iter1"
    ):
        load_results(params(), scores)


@pytest.mark.parametrize(("key", "value"), [("version", "v2.1"), ("sha256", "cd" * 32)])
def test_other_scorers_are_refused_with_what_differs(scores: Path, key: str, value: str) -> None:
    summary = read_json(scores / "dpo" / "summary.json")
    summary["scorers"]["hps"][key] = value
    write_json(scores / "dpo" / "summary.json", summary)
    with pytest.raises(
        EvaluationError, match=rf"dpo and base cannot .* scorer hps has {key} {value} for dpo"
    ):
        load_results(params(), scores)


def test_other_prompts_texts_and_seeds_are_refused(scores: Path) -> None:
    write_scores(scores / "sft", score_frame("sft", 24).iloc[1:], num_prompts=24)
    with pytest.raises(
        EvaluationError, match="1 prompts were answered by one of them only, such as test-00000"
    ):
        load_results(params(), scores)
    write_scores(scores / "sft", score_frame("sft", 24).assign(prompt="another"))
    with pytest.raises(EvaluationError, match="prompt test-00000 has another text"):
        load_results(params(), scores)
    write_scores(scores / "sft", score_frame("sft", 24).assign(seed=5))
    with pytest.raises(EvaluationError, match="have other seeds"):
        load_results(params(), scores)


def test_missing_torn_and_non_finite_scores_are_refused(scores: Path) -> None:
    path = scores / "iter3" / "scores.parquet"
    edit(path, lambda frame: frame.__setitem__("clip", np.nan))
    with pytest.raises(
        EvaluationError, match="must be finite, got nan by clip for prompt test-00000 of iter3"
    ):
        load_results(params(), scores)
    edit(path, lambda frame: frame.__setitem__("flagged", [None, *[False] * (len(frame) - 1)]))
    with pytest.raises(
        EvaluationError, match="must say of every image whether it is flagged, but has none for 1;"
    ):
        load_results(params(), scores)
    edit(path, lambda frame: frame.drop(columns=["clip", "flagged"], inplace=True))
    with pytest.raises(EvaluationError, match="must have a column clip"):
        load_results(params(), scores)
    path.write_bytes(b"torn")
    with pytest.raises(FileError, match="must be a whole parquet file"):
        load_results(params(), scores)
    path.unlink()
    with pytest.raises(EvaluationError, match=r"scores of iter3, found no .*; score that model first"):
        load_results(params(), scores)
    write_scores(scores / "iter3", score_frame("iter3", 24))
    (scores / "base" / "summary.json").write_text("{")
    with pytest.raises(FileError, match=r"summary\.json must be a whole JSON file"):
        load_results(params(), scores)
    (scores / "base" / "summary.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"summary\.json must state protocol and scorers"):
        load_results(params(), scores)


def test_a_prompt_short_of_images_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, 6, num_images=2)
    for model in LEVEL:
        frame = score_frame(model, 6, 2)
        write_scores(tmp_path / model, frame.iloc[:-1], images_per_prompt=2)
    with pytest.raises(EvaluationError, match="base must have 2 images for every prompt"):
        load_results(params(images_per_prompt=2), tmp_path)


def test_the_command_refuses_runs_with_different_protocols_and_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    write_run(tmp_path / "outputs" / "scores" / "test", 24)
    other_run = tmp_path / "outputs" / "scores" / "test" / "iter2"
    write_scores(other_run, score_frame("iter2", 24), num_inference_steps=50)
    assert main(["tables", "--params", str(PROFILE)]) == 2
    said = capsys.readouterr().err.strip()
    assert said == (
        "spin: iter2 and base cannot be compared: protocol has num_inference_steps 50 for iter2 and 15 for base; "
        "make both in the same way."
    )
    assert not (tmp_path / "outputs" / "tables").exists()
