"""Which stage is submitted when: as soon as what it waits for is done, the longest way to the end first."""

from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

import networkx as nx
from prefect.futures import PrefectFuture


class UnknownStageError(Exception):
    """A stage or an iteration that dvc.yaml does not have; the message is one sentence."""


Submit = Callable[[str, list[PrefectFuture[Any]]], PrefectFuture[Any]]


def needed_for(graph: "nx.DiGraph[str]", targets: list[str] | None) -> "nx.DiGraph[str]":
    """Return the part of the graph that `targets` wait for, themselves included; all of it for None.

    A target is a stage's name or, as in `dvc repro`, that of a `foreach` group (`train` for every `train@...`).
    Raises `UnknownStageError` with the first target that names nothing.
    """
    if targets is None:
        return graph
    wanted: set[str] = set()
    for target in targets:
        named = [stage for stage in graph if target in (stage, stage.partition("@")[0])]
        if not named:
            raise UnknownStageError(
                f"targets must name stages of dvc.yaml, got {target}; `dvc stage list` shows them."
            )
        wanted.update(named, *(nx.descendants(graph, stage) for stage in named))
    return graph.subgraph(wanted)


def evaluated_up_to(graph: "nx.DiGraph[str]", iteration: str) -> list[str]:
    """Return the training of `iteration`, and the scoring of it, of the iterations before it and of the base.

    Raises `UnknownStageError` if there is no such iteration.
    """
    trained = f"train@{iteration}"
    if trained not in graph:
        known = (
            ", ".join(sorted(stage.partition("@")[2] for stage in graph if stage.startswith("train@")))
            or "none"
        )
        raise UnknownStageError(
            f"up_to must be one of the iterations {known}, got {iteration}; correct the name."
        )
    before = {stage for stage in nx.descendants(graph, trained) if stage.startswith("train@")}
    models = {"base", *(stage.partition("@")[2] for stage in {trained, *before})}
    scored = [stage for stage in graph if stage.startswith("score@") and stage.rpartition("-")[2] in models]
    return [trained, *sorted(scored)]


def distance_to_end(graph: "nx.DiGraph[str]") -> Mapping[str, int]:
    """Return for each stage how many stages wait for it one after another."""
    distance: dict[str, int] = {}
    for stage in nx.lexicographical_topological_sort(
        graph
    ):  # edges lead to what a stage waits for: users come first
        distance[stage] = max((distance[user] + 1 for user in graph.predecessors(stage)), default=0)
    return distance


def submit_in_order(
    graph: "nx.DiGraph[str]", submit: Submit, max_workers: int
) -> dict[str, PrefectFuture[Any]]:
    """Submit every stage and return their futures, all done, in the order of submission.

    At most `max_workers` are under way. `submit` gets a stage and the futures of what it waits for; those are done, and
    if one of them failed Prefect marks the stage NotReady without running it.
    """
    distance = distance_to_end(graph)
    futures: dict[str, PrefectFuture[Any]] = {}
    done: set[str] = set()
    ended: SimpleQueue[str] = SimpleQueue()
    while len(done) < len(graph):
        # What waits for nothing any more, the longest way to the end first.
        ready = [
            stage for stage in graph if stage not in futures and done.issuperset(graph.successors(stage))
        ]
        ready.sort(key=lambda stage: (-distance[stage], stage))
        for stage in ready[: max_workers - (len(futures) - len(done))]:
            futures[stage] = submit(stage, [futures[before] for before in graph.successors(stage)])
            futures[stage].add_done_callback(lambda _, stage=stage: ended.put(stage))

        # The next one that ends makes room.
        stage = ended.get()
        futures[stage].wait()  # takes the state from the task itself; the server hears of it later
        done.add(stage)
    return futures
