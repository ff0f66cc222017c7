"""`python -m flows`: one run of the flow from a shell, with output a person can follow."""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

from flows import environment
from flows.refusal import refused_input
from flows.server import prefect_api, running_ui
from spin import paths

BAD_INPUT = 2
DRAIN_SECONDS = 10.0
"""Longest wait for Prefect's queues of logs and events."""


class StageLines(logging.Formatter):
    """`time  stage  message` for what a stage says, `time  message` for the rest."""

    def format(self, record: logging.LogRecord) -> str:
        stage = getattr(record, "task_run_name", "")
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        message = record.getMessage()
        if message.startswith("Finished in state "):
            message = _ending(message)
        return f"{clock}  {stage:<18} {message}" if stage else f"{clock}  {message}"


def _ending(message: str) -> str:
    """Shorten Prefect's `Finished in state Cached('DVC has...', type=COMPLETED)`."""
    name, _, said = message.removeprefix("Finished in state ").partition("(")
    said = said.rstrip(")").split(", type=")[0].strip("'\"")
    return {"Cached": "up to date", "Completed": f"done: {said}"}.get(name, f"{name.lower()}: {said}")


def speak_plainly() -> None:
    """Give Prefect's console output our form, and only what a person at a shell can use."""
    from prefect.logging.handlers import PrefectConsoleHandler

    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, PrefectConsoleHandler):
            root.removeHandler(handler)
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(StageLines())
    console.addFilter(_is_for_people)
    root.addHandler(console)


def _is_for_people(record: logging.LogRecord) -> bool:
    """Leave out the flow's own bookkeeping; its last sentence is printed at the end."""
    if record.name.startswith("prefect.task_runs"):
        return record.levelno < logging.ERROR or not record.exc_info
    return record.levelno >= logging.WARNING and not record.name.startswith("prefect.flow_runs")


def main(arguments: list[str] | None = None) -> int:
    """Run the flow and print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows", description="Bring all stages up to date.")
    parser.add_argument(
        "targets", nargs="*", metavar="STAGE", help="only these stages and what they wait for"
    )
    parser.add_argument(
        "--root", type=Path, default=Path(), help="the folder of dvc.yaml (default: this one)"
    )
    parser.add_argument("--max-workers", type=int, default=2, help="stages that may run at once (default: 2)")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    refused = refused_input(given.root)
    if refused:
        print(f"spin: {refused}", file=sys.stderr)
        return BAD_INPUT
    from tasks.stage import BAD_INPUT_STATE

    try:
        with prefect_api(given.root) as settings:
            state = run_flow(
                settings, root=given.root, targets=given.targets or None, max_workers=given.max_workers
            )
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the stages under way were ended. The same command resumes.", file=sys.stderr)
        return 130
    if not state.is_completed():
        print(f"spin: {state.message}", file=sys.stderr)
        return BAD_INPUT if state.name == BAD_INPUT_STATE else 1
    print_results(given.root, state.message or "", time.monotonic() - started)
    return 0


def run_flow(settings: dict[str, str], **parameters: Any) -> Any:
    """Run the flow as a client of a Prefect API with these settings and return its final state."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import temporary_settings

    from flows.spin_diffusion import spin_diffusion

    with temporary_settings(settings):
        speak_plainly()
        try:
            return spin_diffusion(**parameters, return_state=True)
        finally:  # what is still to be told is told now: at exit, a server of this run's own would be gone
            APILogWorker.drain_all(timeout=DRAIN_SECONDS)
            EventsWorker.drain_all(timeout=DRAIN_SECONDS)


def print_results(root: Path, sentence: str, seconds: float) -> None:
    """Print the tables, and where to look further."""
    from flows.links import runs_page
    from spin.evaluation.terminal import console_table

    report = root / paths.REPORT / "report.html"
    for tables in sorted((root / paths.TABLES).glob("*/summary.json")):
        print(f"\n{console_table(tables.parent)}")
    print(f"\n{sentence} It took {seconds:.0f} s.")
    if report.is_file():
        print(f"Report: {report.resolve()}")
    if running_ui(root):
        print(f"Prefect: {environment.PREFECT_API.removesuffix('/api')}")
        print(f"MLflow: {runs_page(root) or environment.MLFLOW_URL}")
    else:
        print("Prefect and MLflow, with this run in both: make ui")
