"""Folders named as kohya's scripts have them, a word to teach, and tags: from names of folders to the rows of updates."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import spin.training.examples
from spin.cli import main
from spin.data.cache import Cache
from spin.data.manifest import MANIFEST_SCHEMA, read_manifest, read_prompts
from spin.data.tags import arrangements
from spin.errors import DataError
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.data import FolderData
from spin.params.schema import Params, load_params
from spin.params.training import TagParams
from spin.runtime.sums import write_sums
from spin.stages.data import run_base, run_cache, run_data
from spin.stages.sample import run_opponents
from spin.training.batches import BatchSource, draw_batch
from spin.training.examples import TrainingSet, _repeated, sft_training_set, spin_training_set
from tests.data.images import jpeg, write_numbered
from tests.data.tables import column
from tests.data.test_folder import bring
from tests.models.tiny import miniature_params, write_params
from tests.training.games import schedule, tiny_diffusion, training_params

DATA, CACHE, OPPONENTS = (Path("outputs") / name for name in ("data", "cache", "opponents/iter1"))
TAGS = TagParams(variants=3, keep=0, dropout=0.2)


def test_a_numbered_folder_says_how_often_and_what_where_there_is_no_caption(tmp_path: Path) -> None:
    manifest = bring(write_numbered(tmp_path / "images"), tmp_path / "out", repeats=True)
    shown = manifest.groupby("caption")["repeats"].agg(["min", "max", "size"])
    assert list(shown.loc["sks dog"]) == [3, 3, 4], "several images of one caption, each three times an epoch"
    assert set(shown[shown.index.str.startswith("tag")].loc[:, "max"]) == {1, 2}
    assert (manifest["repeats"] == 2).sum() == 3, "the number of the nearest folder that has one"


def test_without_repeats_folders_are_names_and_the_manifest_is_as_before(tmp_path: Path) -> None:
    manifest = bring(write_numbered(tmp_path / "images"), tmp_path / "out")
    assert list(manifest.columns) == MANIFEST_SCHEMA.names
    assert len(manifest) == 9, "those without a caption are dropped"


def test_a_number_that_is_no_count_is_one_sentence(tmp_path: Path) -> None:
    for name in ("2024_summer", "0_off"):
        folder = write_numbered(tmp_path / name / "images")
        (folder / name).mkdir()
        (folder / name / "x.jpg").write_bytes(jpeg(50))
        with pytest.raises(DataError, match=f"must begin with 1 to 999, how often .* got {name}; rename it"):
            bring(folder, tmp_path / f"out-{name}", repeats=True)


def folder_data() -> dict[str, Any]:
    shared = {"num_val": 1, "num_test": 1, "small_images": "drop", "aspect_buckets": None}
    shared |= {"trigger": None, "repeats": True}
    return FolderData(kind="folder", path="images", **shared).model_dump()


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of numbered folders up to the first opponents."""
    folder = tmp_path_factory.mktemp("repeats")
    write_numbered(folder / "images")
    raw = miniature_params(tiny_base)
    raw["data"] = folder_data()
    raw["training"]["tags"] = TAGS.model_dump()
    raw["evaluate"]["references"] = []
    raw["baselines"].pop("dpo")
    raw["evaluate"]["models"].remove("dpo")
    raw["tables"]["over"] = ["base"]
    raw["scorers"] = {name: each for name, each in raw["scorers"].items() if not name.startswith("oracle")}
    params = Params.model_validate(raw)
    write_params(folder, raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_data(params)
        run_base(params)
        run_cache(params)
        run_opponents(params, "iter1")
    return folder


def visits(examples: TrainingSet, diffusion: LatentDiffusion, updates: int, batch_size: int) -> Counter[int]:
    """How often each row of an example was visited."""
    params = training_params(batch_size=batch_size, micro_batch_size=1)
    source = BatchSource(examples, diffusion, schedule(), params, True, 0, "iter1", range(batch_size))
    return Counter(row for step in range(updates) for row in source.rows(step))


def test_an_epoch_shows_each_row_as_often_as_its_folder_says(
    project: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusion = tiny_diffusion(tiny_base, tmp_path)
    monkeypatch.chdir(project)
    manifest, cache = read_manifest(DATA), Cache(CACHE)
    repeats = column(manifest, "repeats")
    assert set(repeats) > {1}
    for examples in (sft_training_set(DATA, cache), spin_training_set(DATA, cache, OPPONENTS)):
        assert examples.num_rows == sum(repeats)
        rows = visits(examples, diffusion, updates=sum(repeats), batch_size=2)
        assert rows == dict.fromkeys(range(sum(repeats)), 2), "two epochs visit each row twice"
        shown = examples.fetch(range(examples.num_rows), None)
        wanted = [
            caption
            for caption, times in zip(column(manifest, "caption"), repeats, strict=True)
            for _ in range(times)
        ]
        assert shown.captions == wanted
        images = cache.posteriors(
            [
                image
                for image, times in zip(column(manifest, "image"), repeats, strict=True)
                for _ in range(times)
            ]
        )
        assert torch.equal(shown.real[0], images[0])
    drawn = pd.read_parquet(OPPONENTS / "index.parquet")
    assert len(drawn) == len(manifest), "one opponent an image, however often it is shown"


@pytest.mark.parametrize("drawers", [1, 2])
def test_repeats_and_shapes_are_the_images_own_past_flagged_opponents_and_with_several(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawers: int
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    index = pd.read_parquet(OPPONENTS / "index.parquet")
    shards = sorted(OPPONENTS.glob("shard-*"))
    for number in range(len(shards), drawers * len(shards)):
        shutil.copytree(shards[number % len(shards)], OPPONENTS / f"shard-{number:05d}")
    both = pd.concat([index] * drawers, ignore_index=True)
    both.loc[0, "flagged"] = "black"
    both.to_parquet(OPPONENTS / "index.parquet", index=False)
    write_sums(OPPONENTS)
    monkeypatch.setattr(
        spin.training.examples, "shapes_of", lambda table: np.arange(len(table), dtype=np.int16)
    )
    manifest = read_manifest(DATA)
    repeats, captions = column(manifest, "repeats"), column(manifest, "caption")
    wanted = [row for row in sorted(both["row"][1:]) for _ in range(int(repeats[row]))]
    found = spin_training_set(DATA, Cache(CACHE), OPPONENTS)
    assert found.shapes is not None
    assert found.shapes.tolist() == wanted
    assert found.fetch(range(found.num_rows), None).captions == [captions[row] for row in wanted]


def test_the_cache_holds_every_arrangement_of_tags_and_both_members_of_a_pair_are_told_one(
    project: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusion = tiny_diffusion(tiny_base, tmp_path)
    monkeypatch.chdir(project)
    cache, captions = Cache(CACHE), set(column(read_manifest(DATA), "caption"))
    known = {text for caption in captions for text in arrangements(caption, TAGS)}
    assert known - captions, "some have another order"
    cache.text(known)
    plain = load_params().model_copy(
        update={"training": load_params().training.model_copy(update={"tags": None})}
    )
    listed = set(pd.read_parquet(CACHE / "captions.parquet")["caption"])
    held_out = {*read_prompts(DATA, "val")["prompt"], *read_prompts(DATA, "test")["prompt"]}
    assert listed == known | captions | held_out | {""}

    params = load_params().training.model_copy(
        update={"batch_size": 8, "micro_batch_size": 8, "caption_dropout": 0.0}
    )
    source = BatchSource(
        spin_training_set(DATA, cache, OPPONENTS), diffusion, schedule(), params, True, 0, "iter1", range(8)
    )
    told = source.examples(0).captions
    assert set(told) <= known
    batch = draw_batch(source, 0)
    for name, tensor in cache.text(told).items():
        assert torch.equal(batch.conditioning[name], tensor)
    run_cache(plain)
    assert set(pd.read_parquet(CACHE / "captions.parquet")["caption"]) == captions | held_out | {""}
    with pytest.raises(DataError, match="run `spin cache`"):
        Cache(CACHE).text(known)


def test_init_knows_numbered_folders_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").symlink_to(Path(__file__).resolve().parents[2] / "profiles")
    folder = write_numbered(tmp_path / "photos")
    init = ["init", "--images", "photos", "--profile", "toy", "--force", "--min-images", "1"]
    assert main(init) == 0
    assert "10_NAME is shown ten times an epoch (data.repeats)" in capsys.readouterr().out
    data = load_params().data
    assert isinstance(data, FolderData)
    assert data.repeats
    (folder / "2024_summer").mkdir()
    (folder / "2024_summer" / "x.jpg").write_bytes(jpeg(50))
    assert main(init) == 0
    data = load_params().data
    assert isinstance(data, FolderData)
    assert not data.repeats, "a year is no number of repeats"
    told = capsys.readouterr().out
    assert (
        "folders are not read as kohya's (data.repeats is false): a numbered folder must begin with 1 to"
        in told
    )
    assert "got 2024_summer\n" in told
    (folder / "album").mkdir()
    (folder / "album" / "y.jpg").write_bytes(jpeg(51))
    assert main(init) == 0
    assert "kohya" not in capsys.readouterr().out, "other folders are no such layout"


def test_a_repeated_row_keeps_its_shape() -> None:
    rows = TrainingSet(
        2, lambda rows, flips: pytest.fail("fetched"), lambda captions: {}, np.array([0, 1], np.int16)
    )
    repeated = _repeated(rows, np.array([1, 3], np.int32))
    assert repeated.num_rows == 4
    assert repeated.shapes is not None
    assert repeated.shapes.tolist() == [0, 1, 1, 1]
