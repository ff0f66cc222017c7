"""DVC's commands on a project: run to their end, with patience while another DVC process holds its locks."""

import random
import re
import sys
import time
from collections.abc import Callable
from functools import partial

from tasks.locks import mend_torn_list
from tasks.process import Exit, run
from tasks.project import BUSY_PATIENCE, Project

CHATTER = re.compile(
    r"^(Running stage '|> |Updating lock file|Generating lock file|To track the changes|\s*git add |To enable auto staging"
    r"|Use `dvc push`|Stage '.*' is cached|Pulling data for|\s*dvc config core\.autostage|\s*$)"
)
"""What DVC says around a stage."""
STAGE_EXIT = re.compile(r"exited with (-?\d+)")
_BUSY = re.compile(r"is busy|Unable to acquire lock|Unable to read RWLock-file")


def dvc(
    arguments: list[str], project: Project, on_line: Callable[[str], None], timeout: float | None = None
) -> Exit:
    """Run `dvc ARGUMENTS` in the project and return how it ended; its own chatter is kept from `on_line`.

    It waits for DVC's lock as long as it must: a stage that has done its work would else be refused its record, because
    another one is just then pulling or pushing gigabytes.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    started = time.monotonic()
    pause = 0.5
    while True:
        mend_torn_list(project.root)
        with project.command():
            ended = run(command, project.root, partial(_pass_on, on_line), timeout)
        if not _is_busy(ended) or time.monotonic() - started > BUSY_PATIENCE:
            return ended
        time.sleep(pause * random.uniform(0.5, 1.0))  # two that wait for each other must not meet again
        pause = min(2 * pause, 15.0)


def _pass_on(on_line: Callable[[str], None], line: str) -> None:
    """Hand on what the stage says; leave out what DVC says around it."""
    if not CHATTER.match(line):
        on_line(line)


def _is_busy(ended: Exit) -> bool:
    """Tell whether DVC refused to start because another process holds its locks."""
    return (
        ended.code == 255
        and any(_BUSY.search(line) for line in ended.lines)
        and not any(STAGE_EXIT.search(line) for line in ended.lines)
    )


def push(targets: list[str], project: Project, on_line: Callable[[str], None]) -> str | None:
    """Send what these stages made, and which work it is the result of, to DVC's remote; return what kept it from there.

    The second, DVC's run cache, is how another clone finds the result of the same work in place of doing it.
    """
    ended = dvc(["push", "--run-cache", *targets], project, on_line)
    if ended.code == 0:
        return None
    said = (
        [line for line in ended.lines if line.startswith("ERROR: ")] or ended.lines or ["nothing was printed"]
    )
    return said[0].removeprefix("ERROR: ")
