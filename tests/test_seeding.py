"""Randomness is a function of its purpose."""

import torch

from spin.seeding import derive_seed, generator_for, randn_rows, rows_of_step


def test_a_purpose_always_draws_the_same_and_another_draws_another() -> None:
    first, again, other = (
        torch.randn(8, generator=generator_for(*purpose))
        for purpose in (
            ("opponent", 0, "iter1", "a"),
            ("opponent", 0, "iter1", "a"),
            ("opponent", 0, "iter2", "a"),
        )
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_parts_of_a_purpose_do_not_run_together() -> None:
    seeds = {
        derive_seed("a", "bc"),
        derive_seed("ab", "c"),
        derive_seed("abc"),
        derive_seed("a", 1),
        derive_seed("a", "1"),
    }
    assert len(seeds) == 5


def test_rows_drawn_in_parts_equal_rows_drawn_together() -> None:
    def generators(names: str) -> list[torch.Generator]:
        return [generator_for("image", name) for name in names]

    together = randn_rows(generators("abcd"), (2, 3))
    parts = torch.cat([randn_rows(generators("a"), (2, 3)), randn_rows(generators("bcd"), (2, 3))])
    assert torch.equal(together, parts)


def test_every_epoch_visits_every_row_once_across_uneven_batches() -> None:
    visited = torch.cat([rows_of_step(step, 4, 10, "rows", 0) for step in range(5)])
    assert sorted(visited[:10].tolist()) == list(range(10))
    assert sorted(visited[10:].tolist()) == list(range(10))
    assert visited[:10].tolist() != visited[10:].tolist()


def test_a_batch_larger_than_the_data_set_spans_epochs() -> None:
    rows = rows_of_step(1, 8, 3, "rows", 0)
    assert len(rows) == 8
    assert set(rows.tolist()) == {0, 1, 2}
