"""The report: complete, self-contained, and safe against what a prompt may contain."""

import html
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from spin.errors import EvaluationError
from spin.evaluation.gallery import read_gallery, tile
from spin.evaluation.lineage import costs, revision_line
from spin.evaluation.report import COSTS_HERE, COSTS_PLACE, picture_uri, write_report
from spin.evaluation.tables import write_tables
from spin.params.schema import Params, load_params
from spin.tracking.configuration import flatten
from tests.evaluation.fake_run import curve_frame, write_outputs
from tests.stages.test_table import listed_params, pipeline

PROFILE = Path(__file__).parents[2] / "profiles" / "toy.yaml"


def params() -> Params:
    profile = load_params(PROFILE).model_dump()
    profile["prompt_sets"] = {"test": profile["prompt_sets"]["test"]}
    profile["evaluate"]["prompt_sets"] = ["test"]
    profile["tables"] |= {"bootstrap_samples": 100, "grid_prompts": 2}
    return Params.model_validate(profile)


def report(outputs: Path) -> None:
    write_report(params(), outputs, outputs / "report")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report; one prompt holds markup."""
    outputs = tmp_path_factory.mktemp("outputs")
    write_outputs(outputs, 8)
    manifest = outputs / "samples" / "test" / "base" / "manifest.parquet"
    frame = pd.read_parquet(manifest)
    frame.loc[0, "prompt"] = "<script>alert('&')</script>"
    frame.to_parquet(manifest)
    write_tables(params(), outputs / "scores" / "test", outputs / "tables" / "test", ["clean"])
    report(outputs)
    return outputs


@pytest.fixture(scope="module")
def page(outputs: Path) -> str:
    return (outputs / "report" / "report.html").read_text(encoding="utf-8")


def test_figures_are_written_as_png_and_svg(outputs: Path) -> None:
    for name in ("winrates", "head_to_head", "scores", "radar", "curves", "grid"):
        with Image.open(outputs / "report" / f"{name}.png") as figure:
            assert min(figure.size) > 300
        assert "<svg" in (outputs / "report" / f"{name}.svg").read_text(encoding="utf-8")


def test_the_page_needs_nothing_beside_it(page: str) -> None:
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "url(" not in page
    assert "@import" not in page


def test_the_place_of_what_a_run_took_is_empty(page: str) -> None:
    assert page.count(COSTS_PLACE) == 1
    columns = page.count('class="here" hidden')
    assert columns == len(COSTS_HERE) * (1 + 5), "a heading, and a row for each training"


def test_the_page_says_the_result_first_and_where_it_comes_from(page: str) -> None:
    assert page.index("SPIN iter 1 is named the best") < page.index("<table")
    for text in (
        "95% intervals over prompts, paired",
        "8 test prompts decide nothing",
        "SHA-256 of the UNet",
        "code revision",
        "params.yaml",
    ):
        assert text in page
    assert "cover the choice of prompts only" in page
    assert "Clean (ceiling)" in page


def test_the_page_shows_no_parameter_that_makes_no_stage_run_again(page: str) -> None:
    (text,) = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    shown = flatten(yaml.safe_load(html.unescape(text)))
    listed = {name.partition(".${")[0] for stage in pipeline() for name in listed_params(stage)}
    assert {name for name in shown if not any(f"{name}.".startswith(f"{each}.") for each in listed)} == set()
    assert {"training.batch_size", "opponents.scheduler", "iterations.iter1.beta"} <= shown.keys()


def test_a_prompt_cannot_become_markup(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_every_opened_element_is_closed(page: str) -> None:
    for name in (
        "table",
        "tbody",
        "tr",
        "td",
        "th",
        "div",
        "figure",
        "details",
        "span",
        "p",
        "h2",
        "h3",
        "select",
    ):
        assert len(re.findall(rf"<{name}[ >]", page)) == page.count(f"</{name}>"), name


def test_the_gallery_shows_every_model_on_evenly_spread_prompts(outputs: Path, page: str) -> None:
    assert page.count('<img src="data:image/png;base64,') == 2 * 7
    samples = outputs / "samples" / "test"
    rows = read_gallery(samples, ["base", "iter1"], 3)
    assert [row.prompt_id for row in rows] == ["test-00000", "test-00004", "test-00007"]
    assert len(read_gallery(samples, ["base"], 100)) == 8
    assert len(list((outputs / "report" / "images").glob("*/*.png"))) == 2 * 7


@pytest.mark.slow
def test_the_same_inputs_give_the_same_figures(outputs: Path) -> None:
    before = {p.name: p.read_bytes() for p in (outputs / "report").iterdir() if p.suffix in (".svg", ".html")}
    report(outputs)
    assert before == {name: (outputs / "report" / name).read_bytes() for name in before}


def test_what_is_missing_is_named(outputs: Path, tmp_path: Path) -> None:
    for name in ("tables", "samples", "checkpoints"):
        (tmp_path / name).symlink_to(outputs / name)
    with pytest.raises(EvaluationError, match=r"training curves of sft, but .*sft\.csv is missing"):
        write_report(params(), tmp_path, tmp_path / "out")
    with pytest.raises(EvaluationError, match="manifest of the images of iter9"):
        read_gallery(outputs / "samples" / "test", ["base", "iter9"], 2)
    assert not (tmp_path / "out").exists()


def test_small_pictures_stay_sharp_and_large_ones_shrink(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "small.png")
    Image.effect_noise((1024, 768), 90).convert("RGB").save(tmp_path / "large.png")
    assert tile(tmp_path / "small.png").size == (256, 256)
    assert tile(tmp_path / "large.png").size == (256, 192)
    assert picture_uri(tmp_path / "small.png").startswith("data:image/png;base64,")
    assert picture_uri(tmp_path / "large.png").startswith("data:image/jpeg;base64,")


def test_costs_add_up_the_steps() -> None:
    curves = {"sft": curve_frame("sft", 10), "iter1": curve_frame("iter1", 10)}
    assert costs(curves, params()) == [("sft", 10, 320, 1280), ("iter1", 10, 320, 2560)]
    exact = params().model_dump()
    exact["objective"] |= {"kind": "exact", "timestep_weighting": "exact"}
    walked = costs(curves, Params.model_validate(exact))
    assert walked == [("sft", 10, 320, 1280), ("iter1", 10, 320, 10 * 15 * 320)]


def test_the_revision_is_the_commit_or_says_that_there_is_none(tmp_path: Path) -> None:
    assert revision_line(tmp_path) == "no git commit"
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert re.fullmatch("[0-9a-f]{40}", revision_line(tmp_path))


def test_every_prompt_set_has_its_section(outputs: Path, tmp_path: Path) -> None:
    for kind in ("tables", "samples"):
        (tmp_path / kind).mkdir()
        for name in ("test", "val"):
            (tmp_path / kind / name).symlink_to(outputs / kind / "test")
    for name in ("curves", "checkpoints"):
        (tmp_path / name).symlink_to(outputs / name)
    raw = params().model_dump()
    raw["prompt_sets"]["val"] = {"prompts": "val", "source": None, "images_per_prompt": None}
    raw["evaluate"]["prompt_sets"] = ["test", "val"]
    write_report(Params.model_validate(raw), tmp_path, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    identifiers = re.findall(r' id="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert {"winning-test", "winning-val", "duels-test", "gallery-val"} <= set(identifiers)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identifiers), "every link leads somewhere"
    assert (tmp_path / "report" / "val" / "grid.png").is_file()


def test_a_prompt_set_of_few_prompts_shows_each_prompt(page: str) -> None:
    assert "PickScore by prompt" in page
