"""Properties of updates whose images have several shapes: who draws what, in how many micro-batches, to which gradient."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spin.models.latent_diffusion import LatentDiffusion
from spin.runtime.devices import share_of
from spin.training.batches import Batch, BatchSource, draw_batch
from spin.training.examples import Flips, Rows, TrainingSet
from spin.training.parts import Parts, draw_parts, split_places
from spin.training.steps import Objective
from tests.training.games import denoiser, play, predict, schedule, tiny_diffusion, training_params, weight_of
from tests.training.two_processes import in_two_processes

SIZES = [(3, 5), (5, 3), (4, 4)]
"""Of latents, (h, w), by area."""
TOTAL, BATCH = 12, 8


@pytest.fixture(scope="module")
def diffusion(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return tiny_diffusion(tiny_base, tmp_path_factory.mktemp("checkpoint"))


def mixed_set(fetched: list[int] | None = None) -> TrainingSet:
    """Rows of three shapes: one in five is the first, one in five the second; `fetched` gets the rows asked for."""
    shapes = np.array([(0, 2, 2, 1, 2)[row % 5] for row in range(TOTAL)], np.int16)

    def posterior(row: int, salt: int) -> Tensor:
        generator = torch.Generator().manual_seed(2 * row + salt)
        return torch.randn(2, *SIZES[shapes[row]], generator=generator)

    def fetch(rows: Sequence[int], flips: Flips | None) -> Rows:
        if fetched is not None:
            fetched.extend(rows)
        real, gen = (torch.stack([posterior(row, salt) for row in rows]) for salt in (0, 1))
        wide = torch.full_like(real, -4.0)
        return Rows((real, wide), (gen, wide), [""] * len(rows), torch.zeros(len(rows), 6))

    return TrainingSet(TOTAL, fetch, lambda _: {}, shapes)


def source_of(
    diffusion: LatentDiffusion, places: Sequence[int], fetched: list[int] | None = None, **changes: Any
) -> BatchSource:
    params = training_params(**{"batch_size": BATCH, "micro_batch_size": BATCH, **changes})
    return BatchSource(mixed_set(fetched), diffusion, schedule(), params, True, 0, "iter1", places)


def stretch(rank: int, processes: int) -> range:
    return range(rank * BATCH // processes, (rank + 1) * BATCH // processes)


def content(batch: Parts) -> Counter[bytes]:
    """What each row holds, whatever the order."""
    rows = Counter[bytes]()
    for part in batch.parts:
        assert isinstance(part, Batch)
        assert part.gen is not None
        for row in zip(part.real.x_t, part.real.target, part.gen.x_t, part.real.timesteps, strict=True):
            rows[b"".join(tensor.numpy().tobytes() for tensor in row)] += 1
    return rows


def test_each_row_comes_once_an_epoch_as_without_buckets(diffusion: LatentDiffusion) -> None:
    fetched: list[int] = []
    source = source_of(diffusion, range(BATCH), fetched)
    for step in range(30):  # 20 epochs of 12 rows
        before = len(fetched)
        draw_parts(draw_batch, source, step)
        assert sorted(fetched[before:]) == sorted(source.rows(step)), "the rows of an update without buckets"
    assert Counter(fetched) == dict.fromkeys(range(TOTAL), 20), "each row with equal probability"


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_all_processes_together_draw_what_one_draws(diffusion: LatentDiffusion, processes: int) -> None:
    for step in (0, 7):
        (alone, *shares) = (
            draw_parts(draw_batch, source_of(diffusion, places), step)
            for places in (range(BATCH), *(stretch(rank, processes) for rank in range(processes)))
        )
        assert sum((content(share) for share in shares), Counter()) == content(alone)
        assert {share.num_rows for share in shares} == {BATCH // processes}


def some_parts(rng: np.random.Generator, processes: int, rows: int) -> list[Parts]:
    """Shares of every process of an update of random shapes, told apart by their numbers."""
    shapes = rng.integers(0, rng.integers(1, 9), processes * rows).astype(np.int16)
    split = split_places(shapes, processes)
    assert sorted(place for share in split for part in share for place in part) == list(range(len(shapes)))
    for share in split:
        assert all(len(set(shapes[part])) == 1 for part in share), "one shape a part"
        assert len({int(shapes[part[0]]) for part in share}) == len(share), "one part a shape"
    counts = [[len(part) for part in share] for share in split]
    return [Parts([numbered(part) for part in share], counts, lambda: numbered([0])) for share in split]


def numbered(places: list[int]) -> Batch:
    from spin.training.batches import Noised

    column = torch.tensor(places)
    return Batch(Noised(column, column, column, column), None, {})


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_process_has_as_many_micro_batches_none_too_large_and_every_row_in_one(processes: int) -> None:
    rng = np.random.default_rng(processes)
    for rows in (1, 2, 5, 16):
        for _ in range(20):
            shares = some_parts(rng, processes, rows)
            for size in (1, 2, 3, 16):
                pieces = [list(share.micro_batches(size)) for share in shares]
                assert len({len(each) for each in pieces}) == 1, "forward passes"
                assert len(pieces[0]) <= rows
                assert all(0 < piece.num_rows <= size for each in pieces for piece in each)
                met = [place for each in pieces for piece in each for place in piece.real.timesteps.tolist()]
                assert sorted(met) == list(range(processes * rows))


def test_one_shape_gives_the_micro_batches_that_there_are_without_buckets() -> None:
    (share,) = [Parts([numbered(list(range(7)))], [[7]], lambda: numbered([0]))]
    assert [piece.num_rows for piece in share.micro_batches(3)] == [3, 3, 1]


def test_the_trial_of_memory_has_all_rows_in_the_largest_shape(diffusion: LatentDiffusion) -> None:
    for step in range(8):
        trial = draw_parts(draw_batch, source_of(diffusion, stretch(step % 4, 4)), step).trial()
        assert isinstance(trial, Batch)
        assert trial.real.x_t.shape == (BATCH // 4, 2, 4, 4)


def update(player: nn.Module, source: BatchSource, micro_batch: int, seen: list[int] | None = None) -> Any:
    def counting(network: nn.Module, x_t: Tensor, *rest: Any) -> Tensor:
        if seen is not None:
            seen.append(len(x_t))
        return predict(network, x_t, *rest)

    sgd = torch.optim.SGD(player.parameters(), lr=0.5)
    draw = partial(draw_parts, draw_batch, source)
    return play(player, micro_batch=micro_batch, draw_batch=draw, optimizer=sgd, predict=counting)


def test_the_gradient_is_the_mean_over_all_rows_however_they_are_cut(diffusion: LatentDiffusion) -> None:
    players = [denoiser() for _ in range(3)]
    reports = [
        update(player, source_of(diffusion, range(BATCH)), size)
        for player, size in zip(players, (8, 2, 1), strict=True)
    ]
    for player, report in zip(players[1:], reports[1:], strict=True):
        torch.testing.assert_close(weight_of(player), weight_of(players[0]), rtol=1e-4, atol=1e-6)
        assert report[0]["loss"] == pytest.approx(reports[0][0]["loss"], rel=1e-4)
    assert not torch.equal(weight_of(players[0]), weight_of(denoiser()))


def test_two_processes_see_the_rows_of_one_and_move_the_weights_as_it_does(
    diffusion: LatentDiffusion, tmp_path: Path
) -> None:
    alone, rows = denoiser(), list[int]()
    update(alone, source_of(diffusion, range(BATCH), rows), 3)

    def work(rank: int) -> tuple[list[int], list[int], Any]:
        fetched, seen, player = list[int](), list[int](), denoiser()
        source = source_of(diffusion, share_of(BATCH), fetched)
        update(player, source, 3, seen)
        return fetched, seen, weight_of(player).tolist()

    (first, passes, weight), (second, others, same) = in_two_processes(tmp_path, work)
    trial = BATCH // 2  # rows drawn once more, to try what fits into memory
    assert Counter(first[:-trial]) + Counter(second[:-trial]) == Counter(rows)
    assert len(passes) == len(others), "as many forward passes"
    assert weight == same
    torch.testing.assert_close(torch.tensor(weight), weight_of(alone), rtol=1e-4, atol=1e-6)


def test_supervised_fine_tuning_takes_parts_too(diffusion: LatentDiffusion) -> None:
    player = denoiser()
    source, sgd = source_of(diffusion, range(BATCH)), torch.optim.SGD(player.parameters(), lr=0.1)
    draw = partial(draw_parts, draw_batch, source)
    assert play(player, draw_batch=draw, optimizer=sgd, objective=Objective(None))[0]["loss"] > 0
