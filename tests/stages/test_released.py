"""A run that trains nothing: published UNets over a base, on prompts from a file."""

from pathlib import Path

import pytest
import yaml

from spin.errors import ParamsError
from spin.params.schema import Params, load_params
from spin.runtime.files import read_json
from spin.stages.data import run_base, run_cache, run_data, run_prompt_set, run_released
from spin.stages.registry import run_register
from spin.stages.report import run_report, run_tables
from spin.stages.sample import run_generate
from spin.stages.score import run_score
from tests.models.tiny import ROOT, miniature_params, write_tiny_base


@pytest.fixture
def raw(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Parameters of such a run, in whose folder the test is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle above a blue square on white\na green circle\n")
    write_tiny_base(tmp_path / "other" / "base", seed=1)
    given = miniature_params(tiny_base)
    given["data"] = {"kind": "none"}
    given |= {"iterations": {}, "baselines": {}}
    given["released"] = {"theirs": {"source": str(tmp_path / "other/base/unet"), "revision": None}}
    given["prompt_sets"] = {"mine": {"prompts": "prompts.txt", "source": None, "images_per_prompt": None}}
    given["evaluate"] |= {"models": ["base", "theirs"], "references": [], "prompt_sets": ["mine"]}
    given["scorers"] = {"aesthetic": {"source": "embedded"}}
    given["tables"] |= {"average_of": ["aesthetic"], "over": ["base"]}
    return given


def test_released_checkpoints_are_compared_without_training(raw: dict[str, object]) -> None:
    params = Params.model_validate(raw)
    for stage in (run_data, run_base, run_cache):
        stage(params)
    run_released(params, "theirs")
    run_prompt_set(params, "mine")
    for model in params.evaluate.models:
        run_generate(params, "mine", model)
        run_score(params, "mine", model)
    run_tables(params, "mine")
    run_report(params)
    run_register(params)
    summary = read_json(Path("outputs/tables/mine/summary.json"))
    assert summary["protocol"]["num_prompts"] == 2
    assert summary["win_rate_over_base"].keys() == {"theirs"}
    assert Path("outputs/report/report.html").stat().st_size > 10_000
    images = [
        Path(f"outputs/samples/mine/{model}/images/00000-0.png").read_bytes() for model in ("base", "theirs")
    ]
    assert images[0] != images[1], "the released UNet is what draws"


def test_training_or_held_out_captions_need_data(raw: dict[str, object]) -> None:
    raw["prompt_sets"] = {"mine": {"prompts": "test", "source": None, "images_per_prompt": None}}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ParamsError, match=r"prompt_sets\.mine\.prompts must be a published set or a file"):
        load_params(Path("params.yaml"))


def test_every_profile_is_complete() -> None:
    for profile in sorted((ROOT / "profiles").glob("*.yaml")):
        load_params(profile)
