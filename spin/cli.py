"""`spin COMMAND`: one command per stage of the pipeline, and the tools beside it.

Bad input ends with one sentence and exit code 2. What a stage makes is on disk before MLflow hears of it.
"""

import argparse
import logging
import os
import select
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from spin.errors import SpinError
from spin.params.experimental import experimental_help
from spin.params.schema import Params, load_params
from spin.runtime.commands import GroupedCommands
from spin.runtime.failures import failure_of
from spin.runtime.launch import (
    become_trainjob,
    end_with_launcher,
    is_first_process,
    is_launched,
    launch,
    lost_another,
    processes_wanted,
)
from spin.runtime.warm import run_warm
from spin.stages import fetch, sync
from spin.stages.stage import Item, Stage
from spin.stages.table import STAGES, stage_of
from spin.tools import promote, prompts, sample, score
from spin.tools.arena import command as arena
from spin.tools.caption import command as caption
from spin.tools.export import command as export
from spin.tools.init import command as init
from spin.tools.plan import command as plan
from spin.tools.toy import command as toy

BAD_INPUT, FAILED = 2, 1
SECONDS_FOR_THE_FIRST = 10.0
"""What all processes of a stage find wrong the first one says, whereupon they are ended; after this another speaks up."""
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "true",  # nothing phones home
}
OPTIONS = {
    "name": "which iteration, baseline, model or prompt set",
    "prompts": "which prompt set (default: the first of evaluate.prompt_sets)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 1 where the machine failed."""
    options = _parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    level = logging.INFO if is_first_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpx2", "accelerate", "diffusers", "transformers", "mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not is_first_process():
        os.environ["SPIN_TRACKING"] = "off"
    end_with_launcher()
    # Of images that are large and not too large, which `spin.runtime.images` refuses.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        code: int = options.run(options) or 0
        print(end="", flush=True)  # here, where it is known what to say if it cannot be
        return code
    except SpinError as error:
        if not is_first_process():
            time.sleep(SECONDS_FOR_THE_FIRST)
        print(f"spin: {error}", file=sys.stderr)
        return BAD_INPUT
    except BaseException as error:  # a full disk, a folder that may not be written: the request was right
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return FAILED
        if lost_another(error):
            said = "another process of this stage does not answer any more; this one ends."
        elif failure := failure_of(error):
            said = f"{failure}; mend it and run the same command again."
        else:
            raise
        print(f"spin: {said}", file=sys.stderr)
        return FAILED


def _nobody_reads() -> bool:
    """Whether the reader of the output has enough, as with `spin plan | head`; then nothing more is said."""
    output = select.poll()
    output.register(1, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spin",
        description="SPIN-Diffusion, stage by stage; `spin COMMAND --help` says more of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", action=GroupedCommands, help="one of those below"
    )
    assert isinstance(commands, GroupedCommands)
    commands.heading = "start here"
    for tool in (init, caption, plan, fetch):
        tool.register(commands)

    # A command for each stage.
    commands.heading = "stages, in their order; dvc.yaml runs them"
    for stage in STAGES.values():
        if stage.name == "baseline":
            continue  # `spin train` trains both
        epilog = experimental_help() if stage.name in ("train", "opponents") else None
        command = commands.add_parser(
            stage.command,
            help=stage.help,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
        command.set_defaults(run=_run_stage, command=stage.command, name=None, prompts=None)
        if stage.name == "score":
            score.add_options(command, _run_stage)
        elif "name" in stage.takes:
            command.add_argument("--name", required=True, help=OPTIONS["name"])
        if "prompts" in stage.takes:
            command.add_argument("--prompts", help=OPTIONS["prompts"])
    commands.heading = "tools"
    for tool in (sample, promote, prompts, arena, export, sync, toy):
        tool.register(commands)
    parser.epilog = commands.listing()
    forks = commands.add_parser("warm")  # not listed: the flow's, not the user's
    forks.add_argument("socket")
    forks.set_defaults(run=_fork_stages)
    return parser


def _fork_stages(options: argparse.Namespace) -> int:
    """Serve as `spin.stages.warm` says; only a fork gets past the first line."""
    from spin.stages.warm import end_fork, serve

    arguments, code = serve(options.socket), FAILED
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
    end_fork(code)


def _run_stage(options: argparse.Namespace) -> int:
    # Which stage, of what.
    params = load_params(options.params)
    item = Item(options.name or "", options.prompts or "")
    stage = stage_of(options.command, params, item)
    if stage.name == "code":  # says nothing of the parameters, and is run before all others
        stage.function()(params)
        return 0
    if "prompts" in stage.takes:
        item = Item(item.name, item.prompts or params.evaluate.main_prompt_set)

    # Refuse what can be known to be wrong, then work, then tell MLflow.
    from spin.stages import preflight

    preflight.check(params)
    if not is_launched():
        if stage.shared:
            become_trainjob(options.arguments)
        wanted = processes_wanted() if stage.shared else (1, 1)
        if wanted == (1, 1) and (code := run_warm(options.arguments)) is not None:
            return code
        preflight.check_hub(params, stage.name)
        if wanted != (1, 1):
            return launch(options.arguments, *wanted)
    from spin.tracking.runs import stage_run

    with stage_run(params, stage.label(item), Path.cwd(), stage.gpu) as run:
        with _cost(params, stage, item):
            stage.function()(params, *(getattr(item, name) for name in stage.takes))
        if is_first_process():
            stage.tell(run, params, item)
    if is_launched():
        from spin.runtime.devices import leave_together

        leave_together()
    return 0


def _cost(params: Params, stage: Stage, item: Item) -> AbstractContextManager[None]:
    """What the stage costs is recorded if it works on a device, and shown by the report; no other one loads that code."""
    if not stage.gpu and stage.name != "report":
        return nullcontext()
    from spin.stages.cost import recorded_cost

    return recorded_cost(params, stage, item)
