"""Properties of the opponents: who draws them, what is skipped, and that nothing else changes an image."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import spin.sampling.opponents
from spin.data.cache import Cache
from spin.errors import DataError, ModelError
from spin.params.schema import Params
from spin.runtime.files import read_json
from spin.sampling.safety import SafetyChecker, reasons_to_skip
from spin.stages.sample import run_opponents
from spin.stages.train import run_train
from spin.stages.work import earlier_iterates
from spin.training.examples import spin_training_set
from tests.models.tiny import write_params
from tests.stages.projects import parameters, prepare, raw_parameters
from tests.training.test_engine import launch

INDEX = Path("outputs/opponents/iter2/index.parquet")


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a first iteration trained, so that iteration 2 has two iterates before it."""
    folder = prepare(tmp_path_factory.mktemp("opponents"), tiny_base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_train(parameters(tiny_base), "iter1")
    return folder


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def drawn(
    base: Path, name: str = "iter2", **opponents: Any
) -> tuple[pd.DataFrame, dict[tuple[str, str], torch.Tensor]]:
    """Draw; return the index and the latents by (id, drawn_by)."""
    run_opponents(parameters(base, opponents=opponents), name)
    folder = Path("outputs/opponents") / name
    index = pd.read_parquet(folder / "index.parquet")
    means = torch.cat(
        [load_file(path)["mean"] for path in sorted(folder.glob("shard-*/latents.safetensors"))]
    )
    keys = zip(index["id"], index["drawn_by"], strict=True)
    return index, dict(zip(keys, means, strict=True))


def test_previous_is_drawn_by_the_last_iterate_in_the_order_of_the_manifest(
    inside: Path, tiny_base: Path
) -> None:
    index, _ = drawn(tiny_base)
    assert list(index["row"]) == list(range(12))
    assert set(index["drawn_by"]) == {"iter1"}
    assert not index["flagged"].any()


def test_a_mixture_lets_each_iterate_draw_some_captions(inside: Path, tiny_base: Path) -> None:
    _, previous = drawn(tiny_base)
    index, mixture = drawn(tiny_base, drawn_by="mixture")
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
    again, _ = drawn(tiny_base, drawn_by="mixture")
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
    _, one = drawn(tiny_base, drawn_by="mixture", batch_size=4, shard_size=4)
    _, other = drawn(tiny_base, drawn_by="mixture", batch_size=5, shard_size=7)
    assert one.keys() == other.keys()
    for key, latent in one.items():
        torch.testing.assert_close(latent, other[key], rtol=1e-4, atol=1e-4)


def spoil(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Every so many images come out black, and the next one with a latent that is not finite."""
    original, count = spin.sampling.opponents.sample_images, [0]

    def spoiled(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images, latents = (tensor.clone() for tensor in original(*arguments))
        for row in range(len(images)):
            if count[0] % every == 0:
                images[row] = 0
            elif count[0] % every == 1:
                latents[row, 0, 0, 0] = float("nan")
            count[0] += 1
        return images, latents

    monkeypatch.setattr(spin.sampling.opponents, "sample_images", spoiled)


def test_black_and_broken_images_are_marked_and_never_trained_on(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shutil.rmtree(".spin/work", ignore_errors=True)
    with monkeypatch.context() as patch:
        spoil(patch, every=6)
        index, _ = drawn(tiny_base, latents="direct")
    assert read_json(INDEX.parent / "opponents.json")["flagged"] == {"single colour": 2, "not finite": 2}
    training_set = spin_training_set(Path("outputs/data"), Cache(Path("outputs/cache")), INDEX.parent)
    assert training_set.num_rows == 8
    assert (
        "4 of the 12 opponents are flagged (not finite, single colour): they are not trained on"
        in caplog.text
    )
    kept = index[index["flagged"] == ""]["row"]
    manifest = pd.read_parquet("outputs/data/manifest.parquet")
    rows = training_set.fetch(range(8))
    assert rows.captions == list(manifest["caption"].iloc[kept])
    assert rows.gen is not None
    assert all(tensor.isfinite().all() for tensor in rows.gen)
    curve = run_train(parameters(tiny_base, opponents={"latents": "direct"}), "iter2")
    assert len(curve) == 4


def test_opponents_that_are_all_flagged_stop_the_stage(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(tiny_base)
    before = INDEX.read_bytes()
    spoil(monkeypatch, every=1)
    with pytest.raises(DataError, match=r"all 12 are flagged \(single colour\); look at how iter1 draws"):
        drawn(tiny_base, guidance_scale=2.0)
    assert INDEX.read_bytes() == before, "nothing half-written"


def test_opponents_of_other_captions_are_refused(inside: Path, tiny_base: Path) -> None:
    index, _ = drawn(tiny_base)
    try:
        index.assign(id=list(reversed(index["id"]))).to_parquet(INDEX, index=False)
        with pytest.raises(DataError, match="must hold an image for each of the 12 captions"):
            spin_training_set(Path("outputs/data"), Cache(Path("outputs/cache")), INDEX.parent)
        index.iloc[:-1].to_parquet(INDEX, index=False)
        with pytest.raises(DataError, match="must hold the 11 images of its index, found 12"):
            spin_training_set(Path("outputs/data"), Cache(Path("outputs/cache")), INDEX.parent)
    finally:
        index.to_parquet(INDEX, index=False)


@pytest.fixture(scope="module")
def checker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny safety checker of the real class whose concepts no image is near, in a pipeline's layout."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    for weights in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        weights.data.fill_(1.5)  # above any cosine
    folder = tmp_path_factory.mktemp("checker")
    checker.save_pretrained(folder / "safety_checker")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder / "feature_extractor")
    return folder


def test_what_the_safety_checker_objects_to_is_skipped(
    inside: Path, tiny_base: Path, checker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    latents = torch.zeros(3, 4, 8, 8)
    checker = SafetyChecker(str(checker_folder))
    assert checker.flags(images) == [False] * 3
    assert reasons_to_skip(images, latents, checker) == [""] * 3
    checker._checker.concept_embeds_weights.fill_(-1.5)  # below any cosine
    assert checker.flags(images) == [True] * 3
    before = images.clone()
    assert reasons_to_skip(images, latents, checker) == ["safety checker"] * 3
    assert torch.equal(images, before), "it blackens nothing"

    index, _ = drawn(tiny_base, safety_checker=str(checker_folder))
    assert not index["flagged"].any()
    monkeypatch.setattr(SafetyChecker, "flags", lambda self, images: [row == 0 for row in range(len(images))])
    index, _ = drawn(tiny_base, safety_checker=str(checker_folder / "."), guidance_scale=2.0)
    assert (index["flagged"] == "safety checker").sum() == 3, "the first of each batch of four"


@pytest.mark.parametrize("source", ["no/such/folder/here", "."])
def test_a_safety_checker_that_is_none_is_one_sentence(inside: Path, tiny_base: Path, source: str) -> None:
    with pytest.raises(ModelError, match=r"opponents\.safety_checker must be"):
        drawn(tiny_base, safety_checker=source)


@pytest.mark.slow
def test_two_processes_draw_what_one_does(inside: Path, tiny_base: Path) -> None:
    index, alone = drawn(tiny_base, drawn_by="mixture")
    write_params(inside, raw_parameters(tiny_base, opponents={"drawn_by": "mixture"}))
    shutil.rmtree(INDEX.parent)
    before = set(Path(".spin/work").glob("opponents-iter2-*"))  # of the tests of drawings that fail
    done = launch(inside, "opponents", "--name", "iter2")
    assert done.stderr.count("opponents iter2: ") == 2, "each process counts its own share"
    assert "opponents iter2: 8/8 images" in done.stderr
    assert "opponents iter2: 4/4 images" in done.stderr
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
