"""The embedded assets: what is shipped loads, and the recipe that made it runs."""

from pathlib import Path

import pytest
import torch

from spin.cli import main
from spin.errors import ParamsError
from spin.models.find import embedded_base, find_pipeline
from spin.params.model import EMBEDDED
from spin.runtime.files import read_json
from spin.tools.toy.build import build_toy

ASSETS = embedded_base().parent


def draw(folder: Path) -> torch.Tensor:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    caption, generator = "a red circle left of a blue square on white", torch.Generator().manual_seed(0)
    images: torch.Tensor = pipeline(
        caption,
        num_inference_steps=10,
        guidance_scale=3.0,
        height=32,
        width=32,
        generator=generator,
        output_type="pt",
    ).images
    return images[0]


def test_the_embedded_base_is_a_stable_diffusion_pipeline_that_draws_its_caption() -> None:
    from torchvision.transforms.functional import to_pil_image

    from spin.toy.oracle import judge

    verdict = judge(to_pil_image(draw(embedded_base())), "a red circle left of a blue square on white")
    assert verdict.attributes == 1.0
    assert verdict.psnr > 15


def test_both_embedded_bases_are_found_by_their_names() -> None:
    for source, folder in EMBEDDED.items():
        found = find_pipeline("base.source", source, None)
        assert found.folder == ASSETS / folder
    weights = [(ASSETS / name / "unet/diffusion_pytorch_model.safetensors") for name in ("base", "early")]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_what_is_shipped_is_small_safetensors_with_a_card() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    card = (ASSETS / "CARD.md").read_text(encoding="utf-8")
    quality = read_json(ASSETS / "quality.json")
    for base in ("base", "early"):
        for name, scores in quality[base].items():
            assert f"| {base} | {name} | {scores['psnr']:.2f} | {scores['attributes']:.3f} |" in card
    at_guidance_3 = [quality[base]["guidance 3"]["attributes"] for base in ("early", "base")]
    assert at_guidance_3[0] < 0.9 < at_guidance_3[1], "one base whose content is solved, one whose is not"
    assert "spin toy build" in card


@pytest.mark.slow
def test_the_recipe_runs_from_nothing(tmp_path: Path) -> None:
    assert main(["toy", "build", "--out", str(tmp_path / "assets"), "--scale", "0.002"]) == 0
    for name in ("base", "early"):
        assert draw(tmp_path / "assets" / name).shape == (3, 32, 32)
    assert {path.name for path in (tmp_path / "assets" / "scorers").iterdir()} == {
        path.name for path in (ASSETS / "scorers").iterdir()
    }
    assert "--scale 0.002" in (tmp_path / "assets" / "CARD.md").read_text(encoding="utf-8")


def test_an_existing_folder_or_a_senseless_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="--out must be a new folder"):
        build_toy(tmp_path, 0, 1.0)
    with pytest.raises(ParamsError, match="--scale must be > 0"):
        build_toy(tmp_path / "new", 0, 0.0)
