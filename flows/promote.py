"""The deployment `promote`: the gate of the model registry, as `spin promote` and `spin rollback` are on a command line."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.forms import Promote
from flows.spin_diffusion import FLOW
from tasks.registry import promote as run_gate

EVERYTHING = Promote()


@flow(name=FLOW)
def promote(run: Promote = EVERYTHING) -> State[Any]:
    """Let a registered model meet the champion: it takes the place if it is shown to be better.

    Args:
        run: Which model, or whether to undo the last promotion. With nothing filled in: the best of the run.
    """
    arguments = ["rollback"] if run.rollback else ["promote", *(["--model", run.model] if run.model else [])]
    decided = run_gate(Path(), arguments, return_state=True)
    if decided.is_completed():
        return Completed(message=decided.message)
    return Failed(name=decided.name, message=decided.message)
