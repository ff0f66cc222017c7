"""The reward models against outputs of their original code, recorded at reduced size in a folder of fixtures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from spin.rewards.loading import load_scorer
from spin.rewards.preprocess import clip_pixels, hps_pixels, image_reward_pixels
from tests.rewards.originals import FIXTURES, expected, intermediates, needs_originals

pytestmark = needs_originals
FP64, FP32 = 1e-6, 2e-5


@pytest.fixture(scope="module")
def inputs() -> tuple[list[Image.Image], list[str]]:
    listing = json.loads((FIXTURES / "inputs" / "inputs.json").read_text())
    images = [Image.open(FIXTURES / "inputs" / name) for name in listing["images"]]
    return images, listing["captions"]


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[[str], str]:
    """Lay a fixture out as the folder of its scorer, and return that folder."""

    def copy(source: str, name: str) -> None:
        shutil.copyfile(FIXTURES / source, tmp_path / name)

    def lay_out(name: str) -> str:
        if name in ("pickscore", "aesthetic"):
            copy(f"{name}/config.json", "config.json")
            weights = "model" if name == "pickscore" else "clip"
            copy(f"{name}/{weights}.safetensors", "model.safetensors")
            copy("inputs/clip_small_vocab.json", "vocab.json")
            copy("inputs/clip_small_merges.txt", "merges.txt")
        if name == "aesthetic":
            copy("aesthetic/head_sac_logos_ava1_l14_linearMSE.safetensors", "head.safetensors")
        if name == "hpsv2":
            config = json.loads((FIXTURES / "hpsv2/config.json").read_text())
            (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
            copy("hpsv2/model.safetensors", "model.safetensors")
            copy("inputs/bpe_small.txt.gz", "bpe.txt.gz")
        if name == "imagereward":
            config = json.loads((FIXTURES / "imagereward/config.json").read_text())
            vit = config["vit"]
            (tmp_path / "med_config.json").write_text(json.dumps(config["med_config"]))
            vit = {
                "image_size": vit["img_size"],
                "patch_size": vit["patch_size"],
                "hidden_size": vit["embed_dim"],
                "num_layers": vit["depth"],
                "num_heads": vit["num_heads"],
            }
            (tmp_path / "vit_config.json").write_text(json.dumps(vit))
            copy("imagereward/model.safetensors", "model.safetensors")
            copy("inputs/bert_small_vocab.txt", "vocab.txt")
        return str(tmp_path)

    return lay_out


def every_pair(scorer: Any, images: list[Image.Image], captions: list[str]) -> Tensor:
    """Scores of each caption (row) with each image (column), in the model's dtype."""
    with torch.inference_mode():
        return torch.stack([scorer.raw(images, [caption] * len(images)) for caption in captions])


def assert_close(got: Tensor, wanted: Any, tolerance: float, what: str) -> None:
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    worst = (got.double() - wanted).abs().max().item()
    assert worst <= tolerance, f"{what}: off by {worst:.2e}, more than {tolerance:.0e}"


@pytest.mark.parametrize(
    ("fixture", "preprocess", "key"),
    [
        ("pickscore", clip_pixels, "pixel_values_stride7"),
        ("aesthetic", clip_pixels, "pixel_values_stride7"),
        ("imagereward", image_reward_pixels, "pixel_values_stride7"),
        ("hpsv2", hps_pixels, "pixel_values_stride7"),
        (
            "hpsv2",
            lambda image, size: hps_pixels(image, size, antialias=False),
            "pixel_values_no_antialias_stride7",
        ),
    ],
)
def test_pixels_equal_the_original_preprocessing(
    fixture: str, preprocess: Any, key: str, inputs: Any
) -> None:
    images, _ = inputs
    pixels = torch.stack([preprocess(image, 224) for image in images])[..., ::7, ::7]
    assert_close(pixels, intermediates(fixture)[key], 1e-6, f"{fixture} {key}")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FP64), (torch.float32, FP32)])
def test_pickscore_equals_the_original(dtype: Any, tolerance: float, inputs: Any, folder_of: Any) -> None:
    images, captions = inputs
    want = expected("pickscore")
    scorer: Any = load_scorer("pickscore", folder_of("pickscore"), dtype=dtype)
    scaled = every_pair(scorer, images, captions)
    scale = scorer.logit_scale.detach()
    assert_close(
        scaled / scale, want[f"scores_caption_x_image_fp{tolerance_bits(dtype)}"], tolerance, "cosine"
    )
    assert_close(scaled.softmax(-1), want["softmax_probs_fp32"], 100 * FP32, "preference probabilities")
    assert_close(scale, want["logit_scale_exp"], 100 * FP32, "logit scale")
    paired = scaled.diagonal()
    assert_close(
        paired / 100,
        torch.tensor(want["score_paired_times_logit_scale_fp64"]).double() / 100,
        tolerance,
        "scaled",
    )
    if dtype == torch.float64:
        features = intermediates("pickscore")
        assert_close(scorer.embed_texts(captions).detach(), features["text_features"], FP64, "text features")
        assert_close(scorer.embed_images(images).detach(), features["image_features"], FP64, "image features")


def tolerance_bits(dtype: torch.dtype) -> int:
    return 64 if dtype == torch.float64 else 32


def test_pickscore_tokens_equal_the_original(inputs: Any, folder_of: Any) -> None:
    scorer: Any = load_scorer("pickscore", folder_of("pickscore"))
    _, captions = inputs
    want = expected("pickscore")["input_ids"]
    got = [scorer.tokenize([caption])[0].tolist() for caption in captions]
    assert got == want, "each caption alone, so that no padding hides a difference"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FP64), (torch.float32, FP32)])
@pytest.mark.parametrize("name", ["hps", "hps_v21"])
def test_hps_equals_the_original(
    name: str, dtype: Any, tolerance: float, inputs: Any, folder_of: Any
) -> None:
    images, captions = inputs
    want = expected("hpsv2")
    scorer: Any = load_scorer(name, folder_of("hpsv2"), dtype=dtype)
    assert scorer.tokenize(captions).tolist() == want["input_ids"]
    scores = every_pair(scorer, images, captions)
    assert_close(scores, want[f"scores_caption_x_image_fp{tolerance_bits(dtype)}"], tolerance, "cosine")
    assert_close(scores.diagonal() * 100, want["benchmark_score_x100_fp64"], 100 * tolerance, "times 100")


def test_hps_without_antialiasing_equals_the_original_under_old_torchvision(
    inputs: Any, folder_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, captions = inputs
    scorer: Any = load_scorer("hps", folder_of("hpsv2"), dtype=torch.float64)
    monkeypatch.setattr(
        "spin.rewards.hps.hps_pixels", lambda image, size: hps_pixels(image, size, antialias=False)
    )
    with torch.inference_mode():
        assert_close(
            scorer.raw(images, captions), expected("hpsv2")["score_paired_no_antialias_fp64"], FP64, "cosine"
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FP64), (torch.float32, FP32)])
def test_image_reward_equals_the_original(dtype: Any, tolerance: float, inputs: Any, folder_of: Any) -> None:
    images, captions = inputs
    want = expected("imagereward")
    scorer: Any = load_scorer("image_reward", folder_of("imagereward"), dtype=dtype)
    ids, mask = scorer.tokenize(captions)
    assert ids.tolist() == want["input_ids"]
    assert mask.tolist() == want["attention_mask"]
    assert (
        dict(zip(["[DEC]", "[ENC]"], scorer.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]), strict=True))
        == want["added_tokens"]
    )
    scores = every_pair(scorer, images, captions)
    assert_close(scores, want[f"scores_caption_x_image_fp{tolerance_bits(dtype)}"], tolerance, "reward")
    assert scores[0].argsort(descending=True).argsort().add(1).tolist() == want["inference_rank_caption0"][0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FP64), (torch.float32, FP32)])
def test_aesthetic_equals_the_original(dtype: Any, tolerance: float, inputs: Any, folder_of: Any) -> None:
    images, captions = inputs
    want = expected("aesthetic")
    scorer: Any = load_scorer("aesthetic", folder_of("aesthetic"), dtype=dtype)
    with torch.inference_mode():
        scores = scorer.raw(images, captions)
        assert_close(
            scores,
            want[f"scores_fp{tolerance_bits(dtype)}"],
            2e-6 if dtype == torch.float64 else FP32,
            "rating",
        )
        head_input = intermediates("aesthetic")["head_input"].to(dtype)
        normalised = head_input / head_input.norm(dim=-1, keepdim=True)
        assert_close(scorer.head(normalised).squeeze(-1), want["head_on_normalized_fp64"], tolerance, "head")
        assert_close(
            scorer.head(head_input).squeeze(-1),
            want["head_on_raw_fp64"],
            50 * tolerance,
            "head, unnormalised",
        )


@pytest.mark.parametrize("name", ["pickscore", "hps", "image_reward", "aesthetic"])
def test_scores_are_float32_and_do_not_depend_on_the_batch(name: str, inputs: Any, folder_of: Any) -> None:
    images, captions = inputs
    fixture = {"hps": "hpsv2", "image_reward": "imagereward"}.get(name, name)
    scorer = load_scorer(name, folder_of(fixture))
    together = scorer.score(images, captions)
    alone = torch.cat(
        [scorer.score([image], [caption]) for image, caption in zip(images, captions, strict=True)]
    )
    assert together.dtype == torch.float32
    assert together.shape == (len(images),)
    assert_close(together / together.abs().max(), (alone / together.abs().max()).double(), FP32, name)
