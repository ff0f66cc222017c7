"""What waits in the outbox, told to MLflow: each thing once, in order."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spin.errors import FileError
from spin.tracking.connection import connected
from spin.tracking.hierarchy import child_run, experiment_of, mark_newest, parent_run
from spin.tracking.notes import Notes
from spin.tracking.outbox import Entry, entries
from spin.tracking.registry import write_versions
from spin.tracking.writing import write_metrics, write_notes

logger = logging.getLogger(__name__)

RUNNING, KILLED = "RUNNING", "KILLED"
GONE = "RESOURCE_DOES_NOT_EXIST"
NEVER = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", GONE}
"""What MLflow answers when sending the same again cannot help."""


def send_waiting(root: Path, told: Callable[[Entry], None] = lambda entry: None) -> int:
    """Send all that waits and nobody else holds, the oldest first; returns how many entries are done with.

    Raises what MLflow raises when it is down or refuses the user; what is left then waits.
    """
    done = 0
    with connected(root) as client:
        for entry in entries(root):
            if not entry.hold():  # of a stage that runs, or somebody else sends it
                continue
            try:
                if _nothing_new(entry):
                    continue
                send(client, entry, alive=False)
                done += 1
                told(entry)
            finally:
                entry.let_go()
    return done


def send(client: Any, entry: Entry, alive: bool) -> None:
    """Send what is new of an entry that this process holds, and remove the entry if that was its end.

    What MLflow will never take is set aside with a warning. A run that is gone from MLflow is made anew.
    """
    try:
        _send(client, entry, alive)
    except FileError as error:
        _set_aside(entry, error)
    except Exception as error:
        code = getattr(error, "error_code", "")
        if code not in NEVER:
            raise
        if code == GONE and entry.sent():
            entry.note_sent({})
            _send(client, entry, alive)
        else:
            _set_aside(entry, error)


def _set_aside(entry: Entry, error: Exception) -> None:
    place = entry.set_aside()
    logger.warning(
        "MLflow does not take what %s has to tell (%s); it is kept in %s.",
        entry.stage,
        first_line(error),
        place,
    )


def first_line(error: BaseException) -> str:
    """What an error says, short."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]


def _nothing_new(entry: Entry) -> bool:
    """Whether it is of a killed run of which all has been told; it stays for the run that goes on with it."""
    sent = entry.sent()
    return (
        sent.get("status") == KILLED
        and not entry.ended()
        and not any(True for _ in entry.lines(sent.get("offset", 0)))
    )


def _read(entry: Entry) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]:
    """Opening, ending and what has been sent; raises `FileError` where they are not what was written."""
    opening, ending, sent = entry.opening(), entry.ending(), entry.sent()
    whole = (
        isinstance(opening, dict)
        and {"at", "token", "tags", "parent", "experiment", "stage"} <= opening.keys()
    )
    if not whole or not (ending is None or (isinstance(ending, dict) and {"at", "status"} <= ending.keys())):
        raise FileError(f"{entry.folder} must hold what a stage had to tell, but does not; remove it.")
    return opening, ending, sent


def _send(client: Any, entry: Entry, alive: bool) -> None:
    # The run it belongs to.
    opening, ending, sent = _read(entry)
    experiment = experiment_of(client, opening["experiment"])
    if "run_id" not in sent:
        parent = parent_run(client, experiment, opening["parent"])
        sent = {"run_id": child_run(client, experiment, parent, opening), "offset": 0, "status": RUNNING}
        entry.note_sent(sent)
    run_id = sent["run_id"]
    if alive and sent["status"] != RUNNING:
        client.update_run(run_id, status=RUNNING)
        entry.note_sent(sent | {"status": RUNNING})

    # What it told on the way.
    values: list[tuple[str, float, int, int]] = []
    for line, end in entry.lines(sent["offset"]):
        if "step" in line:
            numbers = line.get("values") or {f"system/{key}": value for key, value in line["machine"].items()}
            values += [(key, value, line["at"], line["step"]) for key, value in numbers.items()]
        elif (picture := entry.files / line.get("file", "")).is_file():
            client.log_artifact(run_id, str(picture), line.get("folder"))
        sent["offset"] = end
    write_metrics(client, run_id, values)
    entry.note_sent(sent)

    # How it ended.
    if ending is None:
        if not alive:
            client.set_terminated(run_id, KILLED)
            entry.note_sent(sent | {"status": KILLED})
        return
    write_notes(client, run_id, Notes(**ending.get("child", {})), entry.files, ending["at"])
    client.set_terminated(run_id, ending["status"], end_time=ending["at"])
    if ending["status"] == "FINISHED":
        parent = parent_run(client, experiment, opening["parent"])
        mark_newest(client, experiment, parent, opening["stage"], run_id)
        write_notes(client, parent, Notes(**ending["parent"]), entry.files, ending["at"])
        client.set_terminated(parent, "FINISHED")
    if ending.get("models"):
        write_versions(client, experiment, run_id, ending["models"], entry.files, ending["at"])
    entry.remove()
