"""The embedded scorers: what is built loads, repeats, and scores each image on its own."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from spin.rewards.loading import load_scorer
from spin.runtime.files import sha256_file
from spin.tools.toy.scorers import build_scorers
from tests.rewards.scenes import PROMPTS

NAMES = ("pickscore", "hps", "image_reward", "clip", "aesthetic")


@pytest.mark.parametrize("name", NAMES)
def test_what_build_wrote_loads_and_scores_each_image_on_its_own(
    name: str, tiny: Path, images: list[Image.Image]
) -> None:
    scorer = load_scorer(name, str(tiny / name))
    together = scorer.score(images, PROMPTS)
    alone = torch.cat(
        [scorer.score([image], [prompt]) for image, prompt in zip(images, PROMPTS, strict=True)]
    )
    assert together.dtype == torch.float32
    assert together.shape == (len(images),)
    assert together.isfinite().all()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert scorer.version.startswith("embedded")
    assert len(scorer.sha256) == 64


@pytest.mark.parametrize("name", ["pickscore", "hps", "image_reward", "clip"])
def test_scores_depend_on_the_prompt(name: str, tiny: Path, images: list[Image.Image]) -> None:
    scorer = load_scorer(name, str(tiny / name))
    assert not torch.equal(scorer.score(images, PROMPTS), scorer.score(images, PROMPTS[::-1]))


def test_building_twice_from_one_seed_gives_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    build_scorers(tmp_path, seed=0, steps_scale=0.001, families=("clip",))
    for name in ("clip", "aesthetic"):
        again, before = (root / name / "model.safetensors" for root in (tmp_path, tiny))
        assert sha256_file(again) == sha256_file(before), (
            "trained alone or with others, the weights are the same"
        )


def test_open_clip_conversion_keeps_what_a_hugging_face_clip_computes() -> None:
    from spin.tools.toy import scorer_models as models

    torch.manual_seed(0)
    clip, converted = models.new_clip("gelu").eval(), models.new_open_clip().eval()
    converted.load_state_dict(models.to_open_clip(clip))
    pixels, ids = torch.randn(2, 3, 32, 32), torch.tensor([[3, 5, 7, clip.config.text_config.eos_token_id]])
    ids = torch.cat([ids, torch.zeros(1, 12, dtype=torch.long)], dim=1)
    image = clip.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(converted.encode_image(pixels), image, rtol=1e-4, atol=1e-5)
    text = clip.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(converted.encode_text(ids), text, rtol=1e-4, atol=1e-5)


def test_the_oracle_prefers_the_right_clean_image(images: list[Image.Image]) -> None:
    for name in ("oracle_psnr", "oracle_attributes"):
        oracle = load_scorer(name, "toy")
        right, wrong = oracle.score(images, PROMPTS), oracle.score(images, [PROMPTS[-1], *PROMPTS[:-1]])
        assert (right > wrong).all()
