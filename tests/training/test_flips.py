"""Properties of mirrored training images: which they are, where they come from, what is said if there are none."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from spin.data.cache import Cache, encode, encode_both_ways
from spin.data.manifest import read_manifest, read_pairs
from spin.data.stored import open_stored
from spin.errors import DataError
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.schema import Params, load_params
from spin.runtime.images import to_pixel_values
from spin.runtime.sums import write_sums
from spin.runtime.tensors import ShardedTensors, posteriors_at, save_shard
from spin.stages.data import run_base, run_cache, run_data
from spin.stages.sample import run_opponents
from spin.training.batches import BatchSource
from spin.training.examples import (
    Flips,
    Rows,
    TrainingSet,
    dpo_training_set,
    sft_training_set,
    spin_training_set,
)
from spin.training.setup import Inputs, open_training_set
from tests.data.tables import column
from tests.models.tiny import miniature_params, write_params
from tests.training.games import schedule, tiny_diffusion, training_params

DATA, CACHE, OPPONENTS = (Path("outputs") / name for name in ("data", "cache", "opponents/iter1"))
PATTERN = [True, False, True, True, False]


@pytest.fixture(scope="module")
def diffusion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tiny_base, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature project up to the first opponents, everything encoded both ways."""
    folder, raw = tmp_path_factory.mktemp("flips"), miniature_params(tiny_base)
    raw["training"]["horizontal_flip"] = True
    write_params(folder, raw)
    params = Params.model_validate(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_data(params)
        run_base(params)
        run_cache(params)
        run_opponents(params, "iter1")
    return folder


def asked_for(diffusion: LatentDiffusion, stage: str = "iter1", seed: int = 0, **training: Any) -> list[Any]:
    """The flips of some updates of 32 pairs."""
    seen: list[Any] = []

    def fetch(rows: Sequence[int], flips: Flips | None) -> Rows:
        seen.append(flips)
        empty = torch.zeros(len(rows), 1, 1, 1)
        return Rows((empty, empty), (empty, empty), [""] * len(rows), torch.zeros(len(rows), 6))

    params = training_params(**{"horizontal_flip": True, "batch_size": 32, **training})
    source = BatchSource(
        TrainingSet(64, fetch, lambda _: {}), diffusion, schedule(), params, True, seed, stage, range(32)
    )
    for step in range(64):
        source.examples(step)
    return seen


def test_half_of_the_images_are_mirrored_each_member_of_a_pair_by_its_own_draw(
    diffusion: LatentDiffusion,
) -> None:
    real, gen = (
        torch.tensor([getattr(flips, side) for flips in asked_for(diffusion)]) for side in ("real", "gen")
    )
    assert real.shape == gen.shape == (64, 32)
    for side in (real, gen, real ^ gen, real[1:] ^ real[:-1], real[:, 1:] ^ real[:, :-1]):
        assert side.float().mean().item() == pytest.approx(0.5, abs=0.05), "independent of all others"


def test_which_images_are_mirrored_follows_from_seed_stage_and_update_alone(
    diffusion: LatentDiffusion,
) -> None:
    flips = asked_for(diffusion)
    assert asked_for(diffusion, micro_batch_size=1, caption_dropout=0.9) == flips
    assert asked_for(diffusion, stage="iter2") != flips
    assert asked_for(diffusion, seed=1) != flips


def test_no_image_is_mirrored_unless_asked_for(diffusion: LatentDiffusion) -> None:
    assert asked_for(diffusion, horizontal_flip=False) == [None] * 64


def test_the_mirrored_latents_are_those_of_the_mirrored_image(diffusion: LatentDiffusion) -> None:
    pixel_values = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    both = encode_both_ways(diffusion, pixel_values)
    mirror = torch.stack([pixel_values[..., 31 - column] for column in range(32)], -1)
    for image, ending in ((pixel_values, ""), (mirror, "_flipped")):
        for name, tensor in encode(diffusion, image).items():
            assert torch.equal(both[name + ending], tensor)
    assert not torch.equal(both["mean"], both["mean_flipped"])


def test_images_that_were_encoded_one_way_are_encoded_anew_for_both(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    params = load_params()
    plain = params.training.model_copy(update={"horizontal_flip": False})
    for given in (params.model_copy(update={"training": plain}), params):
        run_cache(given)
        names = ShardedTensors(CACHE / "latents", "posteriors").names
        assert ("mean_flipped" in names) == given.training.horizontal_flip


def encoded(diffusion: LatentDiffusion, places: Sequence[str], flipped: Sequence[bool]) -> Tensor:
    """The VAE's means of stored images, mirrored where `flipped` says so."""
    pixel_values = to_pixel_values([open_stored(DATA, place) for place in places])
    chosen = [image.flip(-1) if flip else image for image, flip in zip(pixel_values, flipped, strict=True)]
    return encode(diffusion, torch.stack(chosen))["mean"]


def test_every_kind_of_training_set_reads_the_mirrored_rows_of_each_side(
    project: Path, diffusion: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    cache, opposite = Cache(CACHE), [not flip for flip in PATTERN]
    flips, none = Flips(PATTERN, opposite), [False] * 5
    images = column(read_manifest(DATA), "image")[:5]
    pairs = read_pairs(DATA)
    winners, losers = (column(pairs, side)[:5] for side in ("image_w", "image_l"))
    generated = ShardedTensors(OPPONENTS, "latents")

    spin = spin_training_set(DATA, cache, OPPONENTS)
    sft, dpo = sft_training_set(DATA, cache), dpo_training_set(DATA, cache)
    for training_set, real in ((spin, images), (sft, images), (dpo, winners)):
        for asked, pattern in ((flips, PATTERN), (None, none)):
            mean = training_set.fetch(range(5), asked).real[0]
            torch.testing.assert_close(mean, encoded(diffusion, real, pattern), rtol=1e-4, atol=1e-5)
    gen = spin.fetch(range(5), flips).gen
    assert gen is not None
    for tensor, name in zip(gen, ("mean", "logvar"), strict=True):
        names = [f"{name}_flipped" if flip else name for flip in opposite]
        assert torch.equal(tensor, generated.rows(names, range(5)))
    lost = dpo.fetch(range(5), flips).gen
    assert lost is not None
    torch.testing.assert_close(lost[0], encoded(diffusion, losers, opposite), rtol=1e-4, atol=1e-5)


def replace_table(path: Path, frame: pd.DataFrame) -> None:
    """As its stage would leave it."""
    frame.to_parquet(path, index=False)
    write_sums(path.parent)


def test_a_training_set_says_what_is_flagged_and_refuses_what_is_not_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(project)
    caplog.set_level("INFO")
    cache, index, manifest = Cache(CACHE), OPPONENTS / "index.parquet", DATA / "manifest.parquet"
    drawn, listed = pd.read_parquet(index), pd.read_parquet(manifest)
    try:
        spin_training_set(DATA, cache, OPPONENTS)
        assert "are flagged" not in caplog.text
        replace_table(index, drawn.assign(flagged=["black", *[""] * (len(drawn) - 1)]))
        assert spin_training_set(DATA, cache, OPPONENTS).num_rows == len(drawn) - 1
        assert f"1 of the {len(drawn)} opponents are flagged (black)" in caplog.text
        twice = pd.concat([drawn.iloc[:-1], drawn.iloc[:1]])  # the first caption twice, the last one never
        replace_table(index, twice)
        with pytest.raises(DataError, match="must hold an image for each of the 12 captions"):
            spin_training_set(DATA, cache, OPPONENTS)
        replace_table(index, drawn)
        replace_table(manifest, listed.assign(sha256="0" * 64))
        for opened in (
            lambda: spin_training_set(DATA, cache, OPPONENTS),
            lambda: dpo_training_set(DATA, cache),
            lambda: sft_training_set(DATA, cache),
        ):
            with pytest.raises(DataError, match="must hold the images of the manifest"):
                opened()
    finally:
        replace_table(index, drawn)
        replace_table(manifest, listed)


def test_each_stage_reads_its_own_kind_of_examples_and_self_play_only_what_its_reference_drew(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    params, base, here = load_params(Path("params.yaml")), Path("outputs/checkpoints/base"), Path()
    inputs = Inputs(DATA, CACHE, OPPONENTS, prev=base, work=here, previews=here)
    sizes = {"iter1": 12, "sft": 12, "dpo": len(read_pairs(DATA))}
    for name, size in sizes.items():
        examples = open_training_set(params.stage(name), inputs, Cache(CACHE))
        assert examples.num_rows == size
        assert (examples.fetch([0], None).gen is None) == (name == "sft")
    other = project / "other"
    shutil.copytree(base, other, dirs_exist_ok=True)
    for wrong in (replace(inputs, prev=other), replace(inputs, reference=other)):
        with pytest.raises(DataError, match="must hold opponents drawn by other as it is now"):
            open_training_set(params.stage("iter1"), wrong, Cache(CACHE))
    reference = replace(inputs, prev=other, reference=base)
    assert open_training_set(params.stage("iter1"), reference, Cache(CACHE)).num_rows == 12


def test_images_that_were_not_encoded_mirrored_are_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00000"
    folder.mkdir()
    save_shard(folder / "latents.safetensors", {"mean": torch.zeros(2, 1), "logvar": torch.ones(2, 1)}, "key")
    tensors = ShardedTensors(tmp_path, "latents")
    assert posteriors_at(tensors, [1, 0], None)[1].tolist() == [[1.0], [1.0]]
    with pytest.raises(
        DataError, match=r"must hold mirrored images with training\.horizontal_flip, found none; run"
    ):
        posteriors_at(tensors, [1, 0], [False, True])
