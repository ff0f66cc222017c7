"""Properties of captions that are tags: what an arrangement keeps, and which one an update tells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import spin.training.batches
from spin.data.tags import arranged, arrangements
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.training import TagParams
from spin.seeding import generator_for
from spin.training.batches import BatchSource, draw_batch
from spin.training.examples import Flips, Rows, TrainingSet
from tests.training.games import schedule, tiny_diffusion, training_params
from tests.training.test_recipe import set_of

TAGS = TagParams(variants=8, keep=2, dropout=0.3)
CAPTION = ", ".join(["sks dog", "photo", *(f"tag {index}" for index in range(10))])


def parts(caption: str) -> list[str]:
    return caption.split(", ")


def test_an_arrangement_keeps_the_first_tags_and_some_of_the_others() -> None:
    told = [arranged(CAPTION, number, TAGS) for number in range(400)]
    assert all(parts(caption)[:2] == ["sks dog", "photo"] for caption in told)
    assert all(len(set(parts(caption))) == len(parts(caption)) for caption in told), "none twice"
    assert all(set(parts(caption)) <= set(parts(CAPTION)) for caption in told)
    counts = torch.tensor([[f"tag {index}" in parts(caption) for index in range(10)] for caption in told])
    assert counts.float().mean(0).tolist() == pytest.approx([0.7] * 10, abs=0.1)
    firsts = [parts(caption)[2] for caption in told if len(parts(caption)) > 2]
    assert len(set(firsts)) == 10, "any of the others may come first"


def test_arrangements_follow_from_the_caption_alone() -> None:
    told = arrangements(CAPTION, TAGS)
    assert len(set(told)) == len(told) == 8
    assert told == arrangements(CAPTION, TAGS)
    assert told[:3] == arrangements(CAPTION, TAGS.model_copy(update={"variants": 3})), "more add to them"
    assert arrangements(CAPTION, None) == []


@pytest.mark.parametrize(
    ("caption", "tags", "told"),
    [
        ("no tags at all", TAGS, {"no tags at all"}),
        ("one,two", TAGS, {"one,two"}),
        (" a,b ,, ", TagParams(variants=40, keep=0, dropout=0.0), {"a, b", "b, a"}),
        ("a, b", TagParams(variants=40, keep=0, dropout=0.5), {"a, b", "b, a", "a", "b"}),
        ("a, b", TagParams(variants=9, keep=0, dropout=0.999), {"a"}),
    ],
)
def test_few_tags_and_odd_commas(caption: str, tags: TagParams, told: set[str]) -> None:
    assert set(arrangements(caption, tags)) == told, "never an empty caption"


@pytest.fixture(scope="module")
def diffusion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tiny_base, tmp_path_factory.mktemp("checkpoint"))


def told_in(
    diffusion: LatentDiffusion,
    stage: str = "iter1",
    seed: int = 0,
    places: range = range(32),
    **training: Any,
) -> list[list[str]]:
    """The captions of some updates of 32 pairs, all of one caption."""

    def fetch(rows: Sequence[int], _: Flips | None) -> Rows:
        empty = torch.zeros(len(rows), 1, 1, 1)
        return Rows((empty, empty), (empty, empty), [CAPTION] * len(rows), torch.zeros(len(rows), 6))

    params = training_params(**{"tags": TAGS.model_dump(), "batch_size": 32, **training})
    examples = TrainingSet(64, fetch, lambda _: {})
    source = BatchSource(examples, diffusion, schedule(), params, True, seed, stage, places)
    return [source.examples(step).captions for step in range(16)]


def test_each_place_is_told_an_arrangement_by_its_own_draw(diffusion: LatentDiffusion) -> None:
    told = told_in(diffusion)
    known = arrangements(CAPTION, TAGS)
    counts = (
        torch.tensor([[known.index(caption) for caption in update] for update in told]).flatten().bincount()
    )
    assert (counts.float() / counts.sum()).tolist() == pytest.approx([1 / 8] * 8, abs=0.05)
    assert told_in(diffusion, micro_batch_size=1, caption_dropout=0.9) == told
    assert told_in(diffusion, places=range(16, 32)) == [update[16:] for update in told], (
        "whatever the process"
    )
    assert told_in(diffusion, stage="iter2") != told
    assert told_in(diffusion, seed=1) != told


@pytest.mark.parametrize("draws", [None, 2])
def test_noise_mirroring_and_tags_of_a_place_come_from_streams_of_their_own(
    diffusion: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, draws: int | None
) -> None:
    opened: list[tuple[str | int, ...]] = []
    monkeypatch.setattr(
        spin.training.batches,
        "generator_for",
        lambda *purpose: (opened.append(purpose), generator_for(*purpose))[1],
    )
    params = training_params(tags=TAGS.model_dump(), horizontal_flip=True)
    process = diffusion.noise_schedule
    draw_batch(BatchSource(set_of(12), diffusion, process, params, False, 0, "iter1", range(4), draws), 0)
    assert len(set(opened)) == len(opened) == 3 * 4, "else two draws would begin with the same numbers"


def test_captions_are_told_as_they_are_unless_asked_for(diffusion: LatentDiffusion) -> None:
    assert told_in(diffusion, tags=None) == [[CAPTION] * 32] * 16
