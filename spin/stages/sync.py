"""`spin sync`: tell MLflow what it missed; `--all`: everything that the finished stages in this folder have to tell."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spin.errors import TrackingError
from spin.params.schema import Params, load_params
from spin.runtime.provenance import content_md5, recorded_md5s
from spin.stages.stage import Item, Stage
from spin.stages.table import STAGES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: "Commands") -> None:
    """Add the command."""
    text = "Tell MLflow what could not be told while stages ran."
    command = commands.add_parser("sync", help=text, description=text)
    command.add_argument(
        "--all",
        action="store_true",
        help="all finished stages whose outputs are here, such as those of a `dvc pull`",
    )
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    command.set_defaults(run=run_sync)


def run_sync(options: argparse.Namespace) -> None:
    """Send what waits and say what was sent; raises `TrackingError` if MLflow is not there or refuses."""
    params = load_params(options.params) if options.all else None
    from spin.tracking.connection import installed, switched_off, tracking_uri
    from spin.tracking.sending import first_line, send_waiting

    root = Path.cwd()
    if switched_off() or not installed():
        raise TrackingError(
            "MLflow must be installed and SPIN_TRACKING not off; pip install 'spin-diffusion[ops]'."
        )
    try:
        sent = send_waiting(root, lambda entry: print(f"told: {entry.stage}"))
        if params is not None:
            missing = untold(params, root)
            for stage, item in missing:
                fill_in(params, stage, item, root)
            sent += send_waiting(root, lambda entry: print(f"told: {entry.stage}"))
    except Exception as error:  # whatever MLflow raises
        raise TrackingError(
            f"MLflow at {tracking_uri(root)} must take what waits, but does not ({first_line(error)}); what is left waits."
        ) from None
    print(f"{sent} told." if sent else "Nothing waits.")


def untold(params: Params, root: Path) -> list[tuple[Stage, Item]]:
    """The stages whose outputs are all here while MLflow has no finished run of these parameters that made them."""
    from spin.tracking.configuration import configuration_hash
    from spin.tracking.connection import connected
    from spin.tracking.hierarchy import finished_outputs

    recorded, found = recorded_md5s(root), []
    with connected(root) as client:
        told = finished_outputs(client, params.tracking.experiment, configuration_hash(params))
    for stage in STAGES.values():
        for item in stage.items(params):
            makes = stage.files(stage.makes, params, item)
            if stage.name == "code" or not all((root / each).exists() for each in makes):
                continue
            md5s = {
                each.as_posix(): recorded.get(each.as_posix()) or content_md5(root / each) for each in makes
            }
            if not any(md5s.items() <= outputs.items() for outputs in told.get(stage.label(item), [])):
                found.append((stage, item))
    return found


def fill_in(params: Params, stage: Stage, item: Item, root: Path) -> None:
    """Put into the outbox what a finished stage has to tell, with the time of its outputs."""
    from spin.tracking.notes import StageRun
    from spin.tracking.outbox import new_entry
    from spin.tracking.runs import ending_of, opening_of

    newest = max((root / each).stat().st_mtime for each in stage.files(stage.makes, params, item))
    at = {"at": int(newest * 1000)}
    entry = new_entry(root, stage.label(item), opening_of(params, stage.label(item), root) | at)
    run = StageRun()
    stage.tell(run, params, item)
    entry.end(ending_of(run, root, entry) | at)
    entry.let_go()
