"""Going on inside an iteration against moving to the next one: both from the same weights, on the same data."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from spin import paths
from spin.errors import ParamsError
from spin.params.schema import Params, load_params
from spin.runtime.files import sha256_tree
from spin.runtime.sums import write_sums
from spin.stages import continual
from spin.stages.data import run_base, run_cache, run_data, run_prompt_set
from spin.stages.sample import run_generate, run_opponents
from spin.stages.score import run_score
from spin.stages.train import run_train
from tests.models.tiny import miniature_params
from tests.stages.kept import work_of


@pytest.fixture
def raw(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Parameters with a comparison after iteration 1, in whose folder the test is."""
    monkeypatch.chdir(tmp_path)
    given = miniature_params(tiny_base)
    given["prompt_sets"] = {
        "test": given["prompt_sets"]["test"],
        "val": {"prompts": "val", "source": None, "images_per_prompt": None},
    }
    given["continual"] = {"f5": {"finished": "iter1", "next": "iter2", "every": 2, "prompts": "val"}}
    given["scorers"] = {name: given["scorers"][name] for name in ("aesthetic", "oracle_psnr")}
    given["tables"] |= {"average_of": ["aesthetic"], "over": ["base"]}
    return given


@pytest.mark.slow
def test_both_paths_start_alike_and_the_switch_ends_as_the_next_iteration_does(raw: dict[str, Any]) -> None:
    params = Params.model_validate(raw)
    for stage in (run_data, run_base, run_cache):
        stage(params)
    for name in ("iter1", "iter2"):
        run_opponents(params, name)
        run_train(params, name)
    run_prompt_set(params, "val")
    continual.run_continual(params, "f5")
    out = Path("outputs/samples/continual/f5")
    scores = pd.read_parquet(out / "scores.parquet")
    assert set(zip(scores["path"], scores["step"], strict=True)) == {
        ("start", 0),
        *((path, step) for path in ("stay", "switch") for step in (2, 4)),
    }
    assert scores["epochs"].max() == pytest.approx(4 * 4 / 12)
    curve = pd.read_csv(out / "curve.csv").set_index(["path", "step", "scorer"])
    assert curve["mean"]["stay", 4, "oracle_psnr"] != curve["mean"]["switch", 4, "oracle_psnr"]
    assert (out / "curve.png").is_file()

    # Moving to the next iteration is that iteration: its end draws what the trained checkpoint draws.
    raw["evaluate"]["prompt_sets"] = ["val"]
    raw["evaluate"]["references"] = []
    later = Params.model_validate(raw)
    run_generate(later, "val", "iter2")
    run_score(later, "val", "iter2")
    expected = pd.read_parquet("outputs/scores/val/iter2/scores.parquet")["oracle_psnr"]
    ended = scores[(scores["path"] == "switch") & (scores["step"] == 4)]["oracle_psnr"]
    assert list(ended) == list(expected)

    before = sha256_tree(out)
    continual.run_continual(params, "f5")
    assert sha256_tree(out) == before


def rewrite(table: Path, **columns: Any) -> None:
    """Give a table of an output other columns, as its stage would leave it."""
    pd.read_parquet(table).assign(**columns).to_parquet(table, index=False)
    write_sums(table.parent)


def test_an_epoch_is_every_row_that_a_path_trains_on_and_other_data_is_other_work(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = Params.model_validate(raw)
    for stage in (run_data, run_base, run_cache):
        stage(params)
    run_opponents(params, "iter1")
    before = work_of(continual.run_continual, params, "f5")
    rewrite(paths.DATA / "manifest.parquet", repeats=[10] * 12)
    assert work_of(continual.run_continual, params, "f5") != before

    rewrite(paths.OPPONENTS / "iter1" / "index.parquet", flagged=["black", *[""] * 11])
    scored = pd.DataFrame({"prompt_id": ["val-00000"]})
    monkeypatch.setattr(continual, "_scores", lambda *given: scored.assign(path=given[4], step=given[5]))
    (tmp_path / "trained").mkdir()
    points = continual._follow(params, params.continual["f5"], continual.STAY, tmp_path)
    assert [float(point["epochs"].iloc[0]) for point in points] == [2 * 4 / 110, 4 * 4 / 110]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"next": "iter9"}, r"continual\.f5 must name iterations \(iter1, iter2\), got iter9"),
        ({"finished": "iter2"}, r"continual\.f5\.next must be the iteration after iter2, got iter2"),
        ({"every": 3}, r"continual\.f5\.every must divide the 4 updates of iter2, got 3"),
        ({"prompts": "parti"}, r"continual\.f5\.prompts must be one of test, val, got parti"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    raw: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    raw["continual"]["f5"] |= change
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ParamsError, match=message):
        load_params(Path("params.yaml"))
