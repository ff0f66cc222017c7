"""Properties of the opponents: who draws them, in which order, and that the same stream gives the same image."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import spin.sampling.opponents
from spin.data.cache import Cache
from spin.data.manifest import geometry_of
from spin.errors import DataError
from spin.params.schema import Params
from spin.runtime.sums import write_sums
from spin.stages.train import run_train
from spin.stages.work import earlier_iterates
from spin.training.examples import spin_training_set
from tests.models.tiny import write_params
from tests.sampling.drawn import INDEX, drawn
from tests.stages.projects import parameters, raw_parameters
from tests.training.running import launch


def test_previous_is_drawn_by_the_last_iterate_in_the_order_of_the_manifest(
    inside: Path, tiny_base: Path
) -> None:
    index, _ = drawn(tiny_base)
    assert list(index["row"]) == list(range(12))
    assert set(index["drawn_by"]) == {"iter1"}
    assert not index["flagged"].any()


def test_a_mixture_lets_each_iterate_draw_some_captions(inside: Path, tiny_base: Path) -> None:
    _, previous = drawn(tiny_base, latents="direct")  # in 8 bits the batch shows, by a level here and there
    index, mixture = drawn(tiny_base, drawn_by="mixture", latents="direct")
    assert sorted(index["row"]) == list(range(12)), "one image a caption"
    assert set(index["drawn_by"]) == {"base", "iter1"}
    by_last = [key for key in mixture if key[1] == "iter1"]
    assert all(torch.allclose(mixture[key], previous[key], atol=1e-4) for key in by_last), (
        "the same stream gives the same image"
    )
    rows = spin_training_set(Path("outputs/data"), Cache(Path("outputs/cache")), INDEX.parent).fetch(
        range(12)
    )
    manifest = pd.read_parquet("outputs/data/manifest.parquet")
    assert rows.captions == list(manifest["caption"])
    by = dict(zip(index["id"], index["drawn_by"], strict=True))
    assert rows.gen is not None
    assert torch.equal(rows.gen[0], torch.stack([mixture[name, by[name]] for name in manifest["id"]]))
    again, _ = drawn(tiny_base, drawn_by="mixture", latents="direct")
    pd.testing.assert_frame_equal(index, again)


def test_all_earlier_lets_every_iterate_draw_every_caption_and_training_visits_all(
    inside: Path, tiny_base: Path
) -> None:
    index, images = drawn(tiny_base, drawn_by="all_earlier")
    assert len(index) == 24
    assert len(images) == 24
    assert index.groupby("id")["drawn_by"].nunique().tolist() == [2] * 12
    data = Path("outputs/data")
    training_set = spin_training_set(data, Cache(Path("outputs/cache")), INDEX.parent)
    assert training_set.num_rows == 24
    rows = training_set.fetch(range(24))
    manifest = pd.read_parquet(data / "manifest.parquet")
    assert rows.captions == [caption for caption in manifest["caption"] for _ in range(2)]
    assert rows.gen is not None
    expected = torch.stack([images[name, by] for name in manifest["id"] for by in ("base", "iter1")])
    assert torch.equal(rows.gen[0], expected), "each image beside its own caption"
    curve = run_train(parameters(tiny_base, opponents={"drawn_by": "all_earlier"}), "iter2")
    assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-6)


def test_an_image_does_not_depend_on_batch_or_shard(inside: Path, tiny_base: Path) -> None:
    direct = {"latents": "direct"}  # in 8 bits a value on the edge of two levels shows the rounding of sums
    _, one = drawn(tiny_base, drawn_by="mixture", batch_size=4, shard_size=4, **direct)
    _, other = drawn(tiny_base, drawn_by="mixture", batch_size=5, shard_size=7, **direct)
    assert one.keys() == other.keys()
    for key, latent in one.items():
        torch.testing.assert_close(latent, other[key], rtol=1e-4, atol=1e-4)


def test_a_family_that_is_told_of_geometry_is_told_each_images_own(
    inside: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(inside, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    table = Path("outputs/data/manifest.parquet")
    manifest = pd.read_parquet(table).assign(crop_left=range(12), original_width=range(32, 44))
    manifest.to_parquet(table, index=False)
    write_sums(table.parent)
    told: list[torch.Tensor] = []
    draw = spin.sampling.opponents.sample_images

    def listening(diffusion: Any, guidance: Any, *rest: Any) -> Any:
        told.append(guidance.geometry)
        return draw(diffusion, guidance, *rest)

    monkeypatch.setattr(spin.sampling.opponents, "sample_images", listening)
    drawn(tiny_base)
    assert torch.equal(torch.cat(told), geometry_of(manifest))


def test_opponents_of_other_captions_are_refused(inside: Path, tiny_base: Path) -> None:
    index, _ = drawn(tiny_base)
    try:
        index.assign(id=list(reversed(index["id"]))).to_parquet(INDEX, index=False)
        write_sums(INDEX.parent)
        with pytest.raises(DataError, match="must hold an image for each of the 12 captions"):
            spin_training_set(Path("outputs/data"), Cache(Path("outputs/cache")), INDEX.parent)
        index.iloc[:-1].to_parquet(INDEX, index=False)
        write_sums(INDEX.parent)
        with pytest.raises(DataError, match="must hold the 11 images of its index, found 12"):
            spin_training_set(Path("outputs/data"), Cache(Path("outputs/cache")), INDEX.parent)
    finally:
        index.to_parquet(INDEX, index=False)
        write_sums(INDEX.parent)


@pytest.mark.slow
def test_two_processes_draw_what_one_does(inside: Path, tiny_base: Path) -> None:
    index, alone = drawn(tiny_base, drawn_by="mixture")
    write_params(inside, raw_parameters(tiny_base, opponents={"drawn_by": "mixture"}))
    shutil.rmtree(INDEX.parent)
    before = set(Path(".spin/work").glob("opponents-iter2-*"))  # of the tests of drawings that fail
    done = launch(inside, "opponents", "--name", "iter2")
    assert done.stderr.count("opponents iter2") == 1, "no other process speaks"
    assert "opponents iter2 (1 of 2 processes): 8/8 images" in done.stderr
    pd.testing.assert_frame_equal(index, pd.read_parquet(INDEX))
    shards = sorted(INDEX.parent.glob("shard-*/latents.safetensors"))
    assert len(shards) == 3
    both = torch.cat([load_file(path)["mean"] for path in shards])
    assert torch.equal(both, torch.stack(list(alone.values())))
    left = set(Path(".spin/work").glob("opponents-iter2-*")) - before
    assert not left, "collected and removed"


def test_the_chain_of_earlier_iterates_ends_at_the_base(tiny_base: Path) -> None:
    raw = raw_parameters(tiny_base)
    raw["iterations"] = {
        "iter1": raw["iterations"]["iter1"],
        "iter2": raw["iterations"]["iter2"],
        "other": {**raw["iterations"]["iter2"], "prev": "iter1"},
        "iter3": {**raw["iterations"]["iter2"], "prev": "iter2"},
    }
    raw["evaluate"]["models"] += ["other", "iter3"]
    params = Params.model_validate(raw)
    assert earlier_iterates(params, "iter3") == ["base", "iter1", "iter2"]
    assert earlier_iterates(params, "other") == ["base", "iter1"]
