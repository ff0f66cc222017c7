"""profiles/paper.yaml runs through every stage and leaves every table and figure of the paper, with all rows.

Everything that the hub would give is small and lies in folders laid out as its repositories are; so are the published
prompt sets, which have fewer prompts here. That the real ones have theirs is tested in tests/prompts, and that the HPSv2
benchmark's 3200 give what its own code prints in tests/evaluation/test_styles.py.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from accelerate.state import AcceleratorState

from spin.data.manifest import read_manifest, read_pairs
from spin.evaluation.champion import choosing_set
from spin.evaluation.labels import model_label, narrow_label
from spin.params.schema import Params
from spin.prompts.named import FIGURE_2, FIGURE_11, HPS_STYLES
from spin.rewards.loading import load_scorer
from spin.runtime.files import read_json
from spin.stages.table import STAGES
from tests.data.tables import whole
from tests.models.tiny import ROOT
from tests.stages.published import profile, read_profile, shrink_published_sets, small_profile, write_hub

MODELS = [
    "base",
    "sft",
    "dpo",
    "diffusion_dpo",
    "iter1",
    "iter2",
    "iter3",
    "spin_iter1",
    "spin_iter2",
    "spin_iter3",
]
SCORERS = ["pickscore", "hps", "image_reward", "aesthetic", "clip", "average"]
TABLES = {
    "table 1": ("pickapic/mean", MODELS, SCORERS),
    "table 2": ("pickapic/median", MODELS, SCORERS),
    "table 3": ("pickapic/winrate_over_base", [name for name in MODELS if name != "base"], SCORERS),
    "table 4": ("pickapic/winrate_over_dpo", [name for name in MODELS if name != "dpo"], SCORERS),
    "table 5": ("figure2/prompts_aesthetic", MODELS, ["a very cute boy", *FIGURE_2[1:]]),
    "table 7": ("parti/mean", MODELS, SCORERS),
    "table 8": ("parti/median", MODELS, SCORERS),
    "tables 7 and 8, by challenge": ("parti/mean_by_challenge", MODELS, ["Basic", "Quantity"]),
    "table 9": ("hps/mean", MODELS, SCORERS),
    "table 9, medians": ("hps/median", MODELS, SCORERS),
    "table 9, by style": ("hps/styles_hps", MODELS, [*HPS_STYLES, "overall"]),
    "table 9, medians by style": ("hps/styles_hps_median", MODELS, [*HPS_STYLES, "overall"]),
}
"""Its file below outputs/tables, its rows and the beginnings of its columns' names; the paper's table 6 holds no scores."""
COLUMNS = [line for model in MODELS for line in narrow_label(model).splitlines()]
LEVELS = ["sft", "dpo", "diffusion_dpo"]
FIGURES = {
    "figure 1": ("report/winrates", [*map(model_label, MODELS), "Winning rate over Base"], 0),
    "figure 2": ("report/figure2/grid", [*COLUMNS, *FIGURE_2[1:]], len(FIGURE_2)),
    "figure 3": (
        "report/scores",
        ["SPIN by iteration", "SPIN-Diffusion, released", *map(model_label, LEVELS)],
        0,
    ),
    "figure 4": ("report/radar", [*map(model_label, MODELS)], 0),
    "figure 5": (
        "samples/continual/f5/curve",
        ["going on inside the iteration", "moving to the next one", "epochs"],
        0,
    ),
    "figure 11": ("report/figure11/grid", [*COLUMNS, *FIGURE_11], len(FIGURE_11)),
    "figure 12": ("report/grid", [*COLUMNS], 4),
}
"""Its file below outputs, what is written in it, and the prompts of which every model shows its picture."""


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every stage of the profile has run, one after the other in this process."""
    folder = tmp_path_factory.mktemp("paper")
    AcceleratorState._reset_state()  # accelerate's precision is per process, and other tests have another
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shrink_published_sets(patch)
        patch.setattr(
            "spin.rewards.loading.load_scorer", functools.cache(load_scorer)
        )  # loaded once, not 60 times
        run_all(Params.model_validate(small_profile(write_hub(folder / "hub", tiny_base))))
        yield folder / "outputs"
    AcceleratorState._reset_state()


def run_all(params: Params) -> None:
    """Run every stage for every item that it has, each after what it reads."""
    waiting = [(stage, item) for stage in STAGES.values() for item in stage.items(params)]
    while waiting:
        made = {path for stage, item in waiting for path in stage.files(stage.makes, params, item)}
        ready = [
            (stage, item)
            for stage, item in waiting
            if not any(
                path == read or path in read.parents or read in path.parents
                for path in made
                for read in stage.files(stage.reads, params, item)
            )
        ]
        assert ready, "stages wait for each other"
        for stage, item in ready:
            stage.function()(params, *(getattr(item, name) for name in stage.takes))
            waiting.remove((stage, item))


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_paper_has_all_its_rows_and_columns(finished: Path, name: str) -> None:
    place, rows, columns = TABLES[name]
    table = pd.read_csv(finished / "tables" / f"{place}.csv", index_col="model")
    assert list(table.index) == rows
    shown = [column for column in table if not re.search("_(low|high)$", column)]
    assert len(shown) == len(columns)
    assert all(column.startswith(start[:30]) for column, start in zip(shown, columns, strict=True))
    assert table[shown].notna().all(axis=None)
    assert {path.suffix for path in (finished / "tables").glob(f"{place}.*")} == {".csv", ".md", ".tex"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_the_paper_shows_all_its_rows(finished: Path, name: str) -> None:
    place, written, prompts = FIGURES[name]
    drawn = (finished / f"{place}.svg").read_text(encoding="utf-8")
    assert set(written) <= set(re.findall(r"<!-- (.*?) -->", drawn)), (
        "matplotlib notes each text as it draws it"
    )
    assert (finished / f"{place}.png").is_file()
    assert drawn.count("<image") == prompts * len(MODELS)


@pytest.mark.slow
def test_every_row_is_a_model_of_its_own(finished: Path) -> None:
    pictures = {
        model: [path.read_bytes() for path in sorted((finished / "samples/parti" / model).rglob("*.png"))]
        for model in MODELS
    }
    assert all(len(drawn) == 2 * 12 for drawn in pictures.values())
    assert len({tuple(drawn) for drawn in pictures.values()}) == len(MODELS)
    protocols = {(finished / "samples/parti" / model / "protocol.json").read_text() for model in MODELS}
    assert len(protocols) == 1


@pytest.mark.slow
def test_pairs_teach_diffusion_dpo_and_one_winner_a_prompt_the_others(finished: Path) -> None:
    manifest = whole(read_manifest(finished / "data"), "caption", "image")
    pairs = whole(read_pairs(finished / "data"), "image_w")
    assert manifest["caption"].is_unique
    assert len(pairs) > len(manifest)
    assert set(manifest["image"]) <= set(pairs["image_w"])
    assert {path.stem for path in (finished / "curves").glob("*.csv")} == {
        "sft",
        "dpo",
        "iter1",
        "iter2",
        "iter3",
    }


@pytest.mark.slow
def test_the_champion_is_one_of_those_trained_here_and_chosen_on_prompts_that_report_nothing(
    finished: Path,
) -> None:
    page = (finished / "report/report.html").read_text(encoding="utf-8")
    assert "Average score of moving to the next iteration above that of going on" in page, (
        "figure 5, and what follows from it"
    )
    entries = read_json(finished / "registry/registry.json")["models"]
    assert [entry["model"] for entry in entries] == ["iter1", "iter2", "iter3"]
    assert {entry["chosen_on"] for entry in entries} == {"validation"}
    assert sum(entry["champion"] for entry in entries) == 1


def test_the_profile_is_that_of_sd15_with_more_rows_and_prompts() -> None:
    paper, plain, released = profile(), read_profile("sd15"), read_profile("sd15-released")
    assert paper["released"] == released["released"]
    assert {name: paper["prompt_sets"][name] for name in released["prompt_sets"]} == released["prompt_sets"]
    assert paper["evaluate"]["models"] == MODELS
    own = {"baselines", "released", "continual", "prompt_sets", "tracking"}
    for section in paper.keys() - own:
        mine, theirs = paper[section], plain[section]
        if isinstance(mine, dict):
            differ = {f"{section}.{key}" for key in mine if mine[key] != theirs[key]}
            assert differ <= {
                "data.pairs",
                "evaluate.models",
                "evaluate.prompt_sets",
                "evaluate.reduction",
                "tables.over",
            }
        else:
            assert mine == theirs
    params = Params.model_validate(paper)
    assert (params.evaluate.main_prompt_set, choosing_set(params)) == ("pickapic", "validation")


@pytest.mark.parametrize("name", [*(name for name in MODELS if name != "base"), "f5", "reduction"])
def test_a_row_of_the_profile_says_where_its_settings_come_from(name: str) -> None:
    text = (ROOT / "profiles" / "paper.yaml").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^  {name}: .*$", text, re.MULTILINE)
    assert re.search(r"\[(card|peer|recalled|hub|choice)\]", line)
