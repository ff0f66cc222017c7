"""Images that must not be trained on are marked and skipped, and nothing else changes an image."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import spin.sampling.opponents
from spin.data.cache import Cache
from spin.errors import DataError, ModelError
from spin.runtime.files import read_json
from spin.sampling.safety import SafetyChecker, reasons_to_skip
from spin.stages.train import run_train
from spin.training.examples import spin_training_set
from tests.sampling.drawn import INDEX, drawn
from tests.stages.projects import parameters


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

    weights = checker_folder / "safety_checker" / "model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))  # as a repository has it that has no other
    index, _ = drawn(tiny_base, safety_checker=str(checker_folder))
    assert not index["flagged"].any()
    monkeypatch.setattr(SafetyChecker, "flags", lambda self, images: [row == 0 for row in range(len(images))])
    index, _ = drawn(tiny_base, safety_checker=str(checker_folder / "."), guidance_scale=2.0)
    assert (index["flagged"] == "safety checker").sum() == 3, "the first of each batch of four"


@pytest.mark.parametrize("source", ["no/such/folder/here", "."])
def test_a_safety_checker_that_is_none_is_one_sentence(inside: Path, tiny_base: Path, source: str) -> None:
    with pytest.raises(ModelError, match=r"opponents\.safety_checker must be"):
        drawn(tiny_base, safety_checker=source)
