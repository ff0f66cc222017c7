"""A folder of portraits, landscapes and squares goes through data, cache, opponents and training in buckets."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from spin.cli import main
from spin.data.cache import Cache
from spin.data.manifest import read_manifest
from spin.data.stored import open_stored
from spin.errors import DataError, ParamsError
from spin.models.sdxl import StableDiffusionXL
from spin.params.schema import Params
from spin.runtime.files import read_json
from spin.runtime.sums import write_sums
from spin.sampling import opponents as opponents_module
from spin.stages import cost
from spin.stages.data import run_base, run_cache, run_data
from spin.stages.sample import run_opponents
from spin.stages.train import run_train
from spin.training.examples import TrainingSet, spin_training_set
from tests.data.people import shows_whole_head, write_people
from tests.models.tiny import miniature_params, write_params
from tests.models.tiny_families import write_tiny_sd3, write_tiny_sdxl

COUNT, HELD_OUT, BASE = 20, 3, "bases/sdxl"
DATA, CACHE, OPPONENTS = (Path("outputs") / name for name in ("data", "cache", "opponents/iter1"))
BUCKETS = {"step": 8, "max_ratio": 2.5}


def parameters(base: str = BASE, buckets: Any = BUCKETS, resolution: int = 64) -> dict[str, Any]:
    """The miniature parameters on the folder of people, each image encoded both ways."""
    raw = miniature_params(Path(base))
    raw["resolution"] = resolution
    raw["data"] = {"kind": "folder", "path": "people", "num_val": 1, "num_test": 2}
    raw["data"] |= {"small_images": "drop", "aspect_buckets": buckets, "trigger": None, "repeats": False}
    raw["opponents"] |= {"scheduler": "euler", "batch_size": 6, "shard_size": 8}
    raw["training"] |= {
        "batch_size": 16,
        "micro_batch_size": 8,
        "horizontal_flip": True,
        "checkpoint_every": 9,
    }
    raw["evaluate"] |= {"references": [], "models": ["base", "sft", "iter1"], "scheduler": "euler"}
    raw["iterations"] = {"iter1": raw["iterations"]["iter1"]}
    raw["baselines"] = {"sft": raw["baselines"]["sft"]}
    raw["tables"]["over"] = ["base"]
    raw["scorers"] = {name: each for name, each in raw["scorers"].items() if not name.startswith("oracle")}
    return raw


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, its cache and its first opponents, from a tiny SDXL."""
    folder = tmp_path_factory.mktemp("buckets")
    write_people(folder / "people", COUNT)
    write_tiny_sdxl(folder / BASE)
    write_params(folder, parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = Params.model_validate(parameters())
        for stage in (run_data, run_base, run_cache):
            stage(params)
        run_opponents(params, "iter1")
    return folder


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def copied(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change."""
    folder = Path(shutil.copytree(project, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def drawn() -> dict[str, torch.Tensor]:
    """The opponents' latents by id."""
    index = pd.read_parquet(OPPONENTS / "index.parquet")
    shards = [load_file(path) for path in sorted(OPPONENTS.glob("shard-*/latents.safetensors"))]
    rows = [row for shard in shards for row in shard["mean"]]
    return dict(zip(index["id"], rows, strict=True))


def training_set() -> TrainingSet:
    return spin_training_set(DATA, Cache(CACHE), OPPONENTS)


def test_in_buckets_no_head_is_cropped_and_in_squares_those_of_portraits_are(inside: Path) -> None:
    listed = pd.read_parquet(DATA / "manifest.parquet")
    assert len(listed) == COUNT
    assert all(shows_whole_head(open_stored(DATA, place)) for place in listed["image"])
    squares = Params.model_validate(parameters(buckets=None))
    shutil.copytree("people", "elsewhere/people")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("elsewhere")
        run_data(squares)
        places = pd.read_parquet(DATA / "manifest.parquet")["image"]
        whole = sum(shows_whole_head(open_stored(DATA, place)) for place in places)
    assert whole <= COUNT // 2, "else these photographs show nothing"


def test_every_shard_is_of_one_bucket_and_every_opponent_has_the_size_of_its_image(inside: Path) -> None:
    manifest = pd.read_parquet(DATA / "manifest.parquet").set_index("id")
    assert len({*zip(manifest["height"], manifest["width"], strict=True)}) >= 5
    for identifier, latents in drawn().items():
        row = manifest.loc[identifier]
        assert latents.shape == (4, row["height"] // 4, row["width"] // 4)
    assert len(drawn()) == COUNT - HELD_OUT
    for shard in OPPONENTS.glob("shard-*/images.parquet"):
        assert manifest.loc[pd.read_parquet(shard)["id"], "height"].nunique() == 1


def test_a_row_of_the_training_set_is_its_own_image_caption_and_opponent(inside: Path) -> None:
    examples, images = training_set(), drawn()
    rows = pd.concat(read_manifest(DATA).batches("id", "caption", "height", "width"), ignore_index=True)
    assert examples.shapes is not None
    for row, listed in rows.iterrows():
        found = examples.fetch([int(str(row))], None)
        assert found.captions == [listed["caption"]]
        assert found.gen is not None
        assert torch.equal(found.gen[0][0], images[listed["id"]])
        assert found.real[0].shape == found.gen[0].shape
        same = (rows["height"] == listed["height"]) & (rows["width"] == listed["width"])
        assert set(np.flatnonzero(same)) == set(np.flatnonzero(examples.shapes == examples.shapes[row]))


def test_an_opponent_is_the_same_in_whichever_shard_and_batch_it_is_drawn(copied: Path) -> None:
    raw = parameters()
    raw["opponents"] |= {"batch_size": 5, "shard_size": 20, "latents": "direct"}
    raw["training"]["horizontal_flip"] = False
    run_opponents(Params.model_validate(raw), "iter1")
    direct = drawn()
    raw["opponents"] |= {"batch_size": 3, "shard_size": 4}
    run_opponents(Params.model_validate(raw), "iter1")
    for identifier, latents in drawn().items():
        torch.testing.assert_close(latents, direct[identifier], rtol=1e-3, atol=1e-3)


def test_sdxl_is_told_each_images_original_size_crop_and_bucket(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = pd.read_parquet(DATA / "manifest.parquet")
    names = ["original_height", "original_width", "crop_top", "crop_left", "height", "width"]
    allowed = {tuple(row) for row in listed[names].to_numpy(float).tolist()}
    told: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = StableDiffusionXL.predict

    def listening(denoiser: Any, x_t: torch.Tensor, times: Any, conditioning: Any) -> torch.Tensor:
        told.append((x_t, conditioning["time_ids"]))
        return original(denoiser, x_t, times, conditioning)

    monkeypatch.setattr(StableDiffusionXL, "predict", staticmethod(listening))
    params = Params.model_validate(parameters())
    for run in (run_train, run_opponents):
        told.clear()
        run(params.model_copy(update={"seed": 1}), "iter1")
        for x_t, time_ids in told:
            rows = {tuple(row) for row in time_ids.tolist()}
            assert rows <= allowed
            assert {row[4:] for row in rows} == {(4.0 * x_t.shape[2], 4.0 * x_t.shape[3])}
        assert len({x_t.shape[2:] for x_t, _ in told}) >= 5


def test_both_objectives_train_in_buckets_and_begin_where_they_must(inside: Path) -> None:
    params = Params.model_validate(parameters())
    curve = run_train(params, "iter1")
    assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-5), "player and opponent are the same"
    assert all(np.isfinite(row["loss"]) for row in [*curve, *run_train(params, "sft")])
    assert curve[-1]["loss"] != curve[0]["loss"]


def test_opponents_of_other_sizes_are_refused(inside: Path, tmp_path: Path) -> None:
    shutil.copytree(OPPONENTS, tmp_path / "opponents")
    shard = sorted(tmp_path.glob("opponents/shard-*"))[0]
    smaller = {name: tensor[..., 1:] for name, tensor in load_file(shard / "latents.safetensors").items()}
    save_file({name: tensor.contiguous() for name, tensor in smaller.items()}, shard / "latents.safetensors")
    write_sums(shard)
    examples = spin_training_set(DATA, Cache(CACHE), tmp_path / "opponents")
    row = int(pd.read_parquet(shard / "images.parquet")["row"][0])
    with pytest.raises(DataError, match="must hold images of the data set's sizes, but for latents of"):
        examples.fetch([row], None)
    with pytest.raises(DataError, match="must hold the images of a bucket in one size, found several"):
        examples.fetch(range(examples.num_rows), None)


def test_sizes_that_the_transformer_has_no_places_for_are_refused_before_any_work(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_sd3(inside / "bases/sd3")

    def refused(resolution: int, **buckets: Any) -> str:
        with pytest.raises(ParamsError) as caught:
            run_base(Params.model_validate(parameters("bases/sd3", buckets, resolution)))
        return str(caught.value)

    assert refused(64, step=8, max_ratio=2.0).startswith(
        "data.aspect_buckets.step must be a multiple of 16 with SD3, got 8;"
    )
    assert refused(160, step=16, max_ratio=4.0).startswith(
        "data.aspect_buckets.max_ratio must give sides of at most 256 pixels with this base, got 320;"
    )


def test_what_a_stage_cost_counts_each_image_as_a_square(inside: Path) -> None:
    from spin.runtime.meter import Ask

    params = Params.model_validate(parameters())
    plain = params.model_copy(update={"data": params.data.model_copy(update={"aspect_buckets": None})})
    narrow = {Ask("encoder", 48): 3, Ask("denoiser", 12, 16): 5, Ask("denoiser", 20, 16): 2}
    square = {Ask("encoder", 64): 3, Ask("denoiser", 16, 16): 7}
    assert cost.tflop_of(narrow, params) == pytest.approx(cost.tflop_of(square, plain), rel=1e-9)


def test_a_plan_says_that_it_counts_squares(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--images", "17"]) == 0
    assert (
        "Every image counts as a square: the buckets' areas are 90 to 100% of its." in capsys.readouterr().out
    )


def test_the_sheet_of_opponents_does_not_distort_them(inside: Path) -> None:
    assert read_json(OPPONENTS / "opponents.json")["num_images"] == COUNT - HELD_OUT
    from PIL import Image

    tall = opponents_module._squared(Image.new("RGB", (24, 40), "red"))
    assert (tall.size, tall.getpixel((0, 0)), tall.getpixel((20, 20))) == (
        (40, 40),
        (255, 255, 255),
        (255, 0, 0),
    )
