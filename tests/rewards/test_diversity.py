"""Diversity: 0 of copies, the mean distance of pairs, of prompts and not of images, and from no second pass."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spin.errors import ScoreError
from spin.rewards.clip import ClipScorer
from spin.rewards.diversity import EMBEDDING, pairwise_distance, with_diversity
from spin.rewards.loading import load_scorer
from spin.rewards.scoring import score_folder
from spin.runtime.files import read_json, write_json
from tests.rewards.scenes import PROMPTS, Constant


def test_the_distance_of_known_embeddings_is_the_mean_over_pairs_whatever_their_length_and_order() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert pairwise_distance(rows) == pytest.approx(4 / 3)
    assert pairwise_distance(rows[[2, 0, 1]] * [[5.0], [0.1], [2.0]]) == pytest.approx(4 / 3)
    sixty = np.array([[1.0, 0.0], [math.cos(math.pi / 3), math.sin(math.pi / 3)]])
    assert pairwise_distance(sixty) == pytest.approx(0.5)
    assert math.isnan(pairwise_distance(rows[:1]))


def test_identical_embeddings_are_exactly_no_distance_apart() -> None:
    row = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32)
    assert pairwise_distance(np.repeat(row, 4, axis=0)) == 0.0


def test_flagged_images_take_no_part_and_a_prompt_of_which_one_is_left_has_none() -> None:
    vectors = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    frame = pd.DataFrame(
        {
            "prompt_id": ["a", "a", "a", "b", "b"],
            "image_index": [0, 1, 2, 0, 1],
            "flagged": [False, False, True, True, False],
            EMBEDDING: [np.array(vector) for vector in vectors],
        }
    )
    found = with_diversity(frame)
    assert EMBEDDING not in found
    assert found["diversity"].tolist()[:3] == pytest.approx([1.0, 1.0, 1.0])
    assert found["diversity"].isna().tolist() == [False, False, False, True, True]


def drawn(folder: Path, images: list[Image.Image], per_prompt: int, collapsed: bool = False) -> Path:
    """Samples of the first prompts with `per_prompt` images each: different ones, or copies of the first."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for place, prompt in enumerate(PROMPTS[: len(images) // per_prompt]):
        for index in range(per_prompt):
            name = f"images/{place:05d}-{index}.png"
            images[place * per_prompt + (0 if collapsed else index)].save(folder / name)
            row = {"prompt_id": f"test-{place}", "prompt": prompt, "category": "", "image_index": index}
            rows.append({**row, "seed": 1000, "image": name})
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    write_json(folder / "protocol.json", {"num_prompts": place + 1, "images_per_prompt": per_prompt})
    return folder


def test_scoring_keeps_a_number_per_prompt_from_the_pass_that_scores(
    tiny: Path, images: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = load_scorer("clip", str(tiny / "clip"))
    assert isinstance(scorer, ClipScorer)
    samples = drawn(tmp_path / "iter1", images, 2)
    embedded: list[int] = []
    original = scorer.embed_images
    monkeypatch.setattr(
        scorer, "embed_images", lambda batch: (embedded.append(len(batch)), original(batch))[1]
    )
    score_folder(samples, [Constant(), scorer], tmp_path / "scores", batch_size=6)
    assert embedded == [6], "each image goes through CLIP once"
    frame = pd.read_parquet(tmp_path / "scores" / "scores.parquet")
    alone = scorer.score(images, frame["prompt"].tolist())
    assert frame["clip"].tolist() == alone.double().tolist(), "the score is what it is without diversity"
    unit = original(images).detach().double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    by_hand = [1 - float(unit[place] @ unit[place + 1]) for place in (0, 2, 4)]
    assert frame["diversity"].tolist() == pytest.approx(np.repeat(by_hand, 2), abs=1e-6)
    summary = read_json(tmp_path / "scores" / "summary.json")
    assert summary["diversity"] == {"mean": pytest.approx(np.mean(by_hand), abs=1e-6), "num_prompts": 3}
    assert set(summary["mean"]) == {"constant", "clip"}, "it is no score"


def test_copies_have_no_diversity(tiny: Path, images: list[Image.Image], tmp_path: Path) -> None:
    samples = drawn(tmp_path / "iter1", images, 3, collapsed=True)
    score_folder(samples, [load_scorer("clip", str(tiny / "clip"))], tmp_path / "scores", batch_size=6)
    found = pd.read_parquet(tmp_path / "scores" / "scores.parquet")["diversity"]
    assert found.max() < 1e-12
    assert found.min() >= 0


def test_neither_the_order_of_images_nor_the_batch_size_changes_it(
    tiny: Path, images: list[Image.Image], tmp_path: Path
) -> None:
    scorer, found = load_scorer("clip", str(tiny / "clip")), []
    samples = drawn(tmp_path / "iter1", images, 3)
    listed = pd.read_parquet(samples / "manifest.parquet")
    for order, batch_size in ((range(6), 6), ([5, 0, 3, 1, 4, 2], 6), (range(6), 1), ([1, 0, 2, 3, 5, 4], 4)):
        listed.iloc[list(order)].to_parquet(samples / "manifest.parquet", index=False)
        score_folder(samples, [scorer], tmp_path / "scores", batch_size)
        frame = pd.read_parquet(tmp_path / "scores" / "scores.parquet")
        found.append(frame.drop_duplicates("prompt_id").set_index("prompt_id")["diversity"].sort_index())
    assert found[0].min() > 1e-4
    for other in found[1:]:
        assert other.tolist() == pytest.approx(found[0].tolist(), rel=1e-4, abs=1e-9)


def test_one_image_a_prompt_or_no_clip_measures_nothing(
    tiny: Path, images: list[Image.Image], tmp_path: Path
) -> None:
    clip, pick = (load_scorer(name, str(tiny / name)) for name in ("clip", "pickscore"))
    for name, per_prompt, scorer in (("one", 1, clip), ("other", 2, pick)):
        score_folder(drawn(tmp_path / name, images, per_prompt), [scorer], tmp_path / "scores" / name, 6)
        assert "diversity" not in pd.read_parquet(tmp_path / "scores" / name / "scores.parquet")
        assert "diversity" not in read_json(tmp_path / "scores" / name / "summary.json")


def test_a_scorer_may_not_take_the_name_of_a_column(images: list[Image.Image], tmp_path: Path) -> None:
    class Own(Constant):
        name = "diversity"

    with pytest.raises(
        ScoreError, match="a scorer must not be called diversity, which scoring adds as a column"
    ):
        score_folder(drawn(tmp_path / "iter1", images, 2), [Own()], tmp_path / "scores", 6)
