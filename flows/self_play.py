"""The deployment `self-play`: SPIN in the project of the worker, or with other parameters in a folder of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.forms import SelfPlay
from flows.left_running import under_way
from flows.parameters import checked, chosen
from flows.spin_diffusion import FLOW, bring_up_to_date, kind
from flows.workspace import name_of, workspace
from spin.errors import SpinError
from tasks.project import Project, TornProjectError
from tasks.stage import BAD_INPUT_STATE

ALL = SelfPlay()


@flow(name=FLOW)
def self_play(run: SelfPlay = ALL) -> State[Any]:
    """Play SPIN: train iterations and baselines, compare them, and show tables and report.

    Args:
        run: Which stages, with which parameters, and how. With nothing filled in: every stage that is out of date.
    """
    try:
        with under_way(Path()), _place(run) as root:
            return bring_up_to_date(root, _targets(run, root), run, run.up_to)
    except (SpinError, TornProjectError) as error:
        return Failed(name=BAD_INPUT_STATE, message=str(error))


@contextmanager
def _place(run: SelfPlay) -> Iterator[Path]:
    """Yield the project, or for other parameters than its own a workspace."""
    root = Path()
    if run.profile is None and not run.overrides:
        yield root
        return
    raw = chosen(root, run.profile, run.overrides)
    checked(raw, root)
    with workspace(root, name_of(run.profile or "params", raw), raw, {}) as folder:
        yield folder


def _targets(run: SelfPlay, root: Path) -> list[str] | None:
    """Return the stages asked for, None for all. An isolated run by itself registers no models: they are the project's."""
    if run.targets:
        return run.targets
    if run.up_to is not None:
        return []
    if root == Path():
        return None
    return [stage for stage in Project(root).graph() if kind(stage) != "register"]
