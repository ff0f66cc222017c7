"""The embedded world and its oracle."""

import itertools

import numpy as np
import pytest
from PIL import Image

from spin.errors import DataError
from spin.toy.oracle import clean_image, judge
from spin.toy.world import (
    JITTER,
    Scene,
    Thing,
    corrupt_scene,
    degrade,
    parse_caption,
    preference_pair,
    render,
    render_random,
    split_scenes,
    to_uint8,
    web_image,
)


def test_captions_name_their_scenes() -> None:
    for scenes in split_scenes().values():
        assert all(parse_caption(scene.caption) == scene for scene in scenes)


@pytest.mark.parametrize(
    "caption", ["", "a cat", "a red circle left of a blue square on pink", "red circle above blue"]
)
def test_a_foreign_caption_is_refused_with_an_example(caption: str) -> None:
    with pytest.raises(DataError, match="a red circle left of a blue square on white"):
        parse_caption(caption)


def test_no_test_caption_joins_objects_that_training_shows_together() -> None:
    pairs = {
        split: {frozenset((scene.first, scene.second)) for scene in scenes}
        for split, scenes in split_scenes().items()
    }
    assert {split: len(scenes) for split, scenes in split_scenes().items()} == {
        "train": 512,
        "val": 72,
        "test": 256,
    }
    assert not pairs["train"] & pairs["test"]
    assert not pairs["train"] & pairs["val"]
    assert not pairs["val"] & pairs["test"]


def test_every_object_of_the_test_captions_is_known_from_training() -> None:
    seen = {thing for scene in split_scenes()["train"] for thing in (scene.first, scene.second)}
    assert seen == {thing for scene in split_scenes()["test"] for thing in (scene.first, scene.second)}


def test_the_oracle_gives_clean_images_full_marks_at_any_jitter() -> None:
    rng = np.random.default_rng(0)
    for scene in split_scenes()["test"][:40]:
        verdict = judge(Image.fromarray(to_uint8(render_random(scene, rng))), scene.caption)
        assert verdict.attributes == 1.0
        assert verdict.psnr > 45


def test_the_oracle_notices_every_kind_of_mistake() -> None:
    rng = np.random.default_rng(1)
    for scene in split_scenes()["val"]:
        wrong = corrupt_scene(scene, rng)
        assert wrong != scene
        verdict = judge(clean_image(wrong), scene.caption)
        assert verdict.attributes < 1.0
        assert verdict.psnr < judge(clean_image(scene), scene.caption).psnr


def test_psnr_falls_with_severity_and_content_survives_mild_degradation() -> None:
    rng = np.random.default_rng(2)
    scenes = split_scenes()["train"][:60]
    means = []
    for severity in (0.0, 0.2, 0.4, 0.7, 1.0):
        images = [Image.fromarray(to_uint8(degrade(render(scene), severity, rng))) for scene in scenes]
        verdicts = [judge(image, scene.caption) for image, scene in zip(images, scenes, strict=True)]
        means.append(np.mean([verdict.psnr for verdict in verdicts]))
        if severity <= 0.4:
            assert np.mean([verdict.attributes for verdict in verdicts]) > 0.97
    assert all(later < earlier for earlier, later in itertools.pairwise(means))


def test_images_are_in_range_and_of_the_resolution() -> None:
    rng = np.random.default_rng(3)
    for scene in split_scenes()["train"][:20]:
        image, severity = web_image(scene, rng)
        assert image.shape == (32, 32, 3)
        assert image.min() >= 0
        assert image.max() <= 1
        assert 0 <= severity <= 1


def test_labels_are_right_as_often_as_asked() -> None:
    rng = np.random.default_rng(4)
    scene = split_scenes()["train"][0]
    right = 0
    for _ in range(300):
        winner, loser = preference_pair(scene, 0.4, 0.8, rng)
        psnrs = [judge(Image.fromarray(to_uint8(image)), scene.caption).psnr for image in (winner, loser)]
        right += psnrs[0] > psnrs[1]
    assert 0.68 < right / 300 < 0.88  # PSNR follows severity only nearly


def test_objects_keep_to_their_halves() -> None:
    scene = Scene(Thing("red", "square"), Thing("blue", "square"), "left of", "white")
    for shift in JITTER:
        image = render(scene, ((shift, shift), (shift, shift)))
        np.testing.assert_allclose(image[:, 15:17], 0.96, atol=1e-6)
