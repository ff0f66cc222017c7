"""`spin STAGE`: one subcommand per stage of the pipeline, and `spin toy build` for the embedded world.

Bad input ends with one sentence and exit code 2. What a stage makes is on disk before MLflow hears of it.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spin import continual, evaluation_stages, preflight, stages
from spin.commands import arena, export, init, plan, prompts, score
from spin.errors import SpinError
from spin.params import Params, load_params

BAD_INPUT, FAILED = 2, 1
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "true",  # nothing phones home
}

_PLAIN: dict[str, Callable[[Params], object]] = {
    "data": stages.run_data,
    "base": stages.run_base,
    "cache": stages.run_cache,
    "report": evaluation_stages.run_report,
    "register": evaluation_stages.run_register,
}
_NAMED: dict[str, Callable[[Params, str], object]] = {
    "released": stages.run_released,
    "opponents": stages.run_opponents,
    "train": stages.run_train,
    "prompt-set": evaluation_stages.run_prompt_set,
    "continual": continual.run_continual,
}
_BY_PROMPTS: dict[str, Callable[[Params, str], object]] = {"tables": evaluation_stages.run_tables}
_EVALUATED: dict[str, Callable[[Params, str, str], object]] = {
    "generate": evaluation_stages.run_generate,
    "reference": evaluation_stages.run_reference,
    "score": evaluation_stages.run_score,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 1 where the machine failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "accelerate", "diffusers", "transformers", "mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if os.environ.get("RANK", "0") != "0":
        os.environ["SPIN_TRACKING"] = "off"
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        options.run(options)
    except SpinError as error:
        print(f"spin: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:  # a full disk, a folder that may not be written: the request was right
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"spin: {where}{error.strerror or error}; mend it and run the same command again.",
            file=sys.stderr,
        )
        return FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spin", description="SPIN-Diffusion, stage by stage; see dvc.yaml.")
    commands = parser.add_subparsers(required=True, metavar="STAGE")
    for name, function in {**_PLAIN, **_NAMED, **_BY_PROMPTS, **_EVALUATED}.items():
        command = commands.add_parser(name, help=(function.__doc__ or "").splitlines()[0])
        command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
        command.set_defaults(run=_run_stage, stage=name, name=None, prompts=None)
        if name == "score":
            score.add_options(command, _run_stage)
        elif name in _NAMED or name in _EVALUATED:
            command.add_argument(
                "--name", required=True, help="which iteration, baseline, model or prompt set"
            )
        if name in _BY_PROMPTS or name in _EVALUATED:
            command.add_argument(
                "--prompts", help="which prompt set (default: the first of evaluate.prompt_sets)"
            )
    _add_toy(commands)
    for module in (init, plan, prompts, arena, export):
        module.register(commands)
    return parser


def _add_toy(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    toy = commands.add_parser("toy", help="The embedded world.").add_subparsers(
        required=True, metavar="COMMAND"
    )
    build = toy.add_parser("build", help="Train the embedded base and scorers again, from nothing.")
    build.add_argument(
        "--out", type=Path, required=True, help="folder to write base/, scorers/ and CARD.md to"
    )
    build.add_argument("--seed", type=int, default=0)
    build.add_argument(
        "--scale", type=float, default=1.0, help="share of the training steps; 0.002 only tries it out"
    )
    build.set_defaults(run=_build_toy)


def _run_stage(options: argparse.Namespace) -> None:
    params = load_params(options.params)
    preflight.check(params)
    from spin.stage_log import log_stage
    from spin.tracking import stage_run

    kind, name = options.stage, options.name
    if kind in _BY_PROMPTS or kind in _EVALUATED:
        options.prompts = options.prompts or params.evaluate.main_prompt_set
    label = "-".join(part for part in (options.prompts, name) if part)
    with stage_run(params, f"{kind.replace('-', '_')}@{label}" if label else kind, Path.cwd()) as run:
        if kind in _EVALUATED:
            _EVALUATED[kind](params, options.prompts, name)
        elif label:
            (_NAMED | _BY_PROMPTS)[kind](params, label)
        else:
            _PLAIN[kind](params)
        if os.environ.get("RANK", "0") == "0":  # of several training processes, the first one tells
            log_stage(run, params, kind, name, options.prompts)


def _build_toy(options: argparse.Namespace) -> None:
    from spin.toy.build import build_toy

    build_toy(options.out, options.seed, options.scale)
