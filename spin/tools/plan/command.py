"""`spin plan`: images, forwards, TFLOP, hours, disk and memory of a parameter file, before any of it is spent."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from spin.errors import ParamsError
from spin.params.schema import Params, load_params
from spin.tools.plan.published import PEAK_TFLOPS

if TYPE_CHECKING:
    from spin.tools.plan.estimate import Plan


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the subcommand."""
    command = commands.add_parser("plan", help="What a run will cost, before it starts.")
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file or profile")
    command.add_argument(
        "--gpu", default="a100", help=f"one of {', '.join(PEAK_TFLOPS)}, or with --tflops any name"
    )
    command.add_argument("--gpus", type=int, default=1, help="how many of them")
    command.add_argument(
        "--tflops", type=float, help="peak TFLOP/s of one GPU, instead of the maker's figure"
    )
    command.add_argument(
        "--utilisation", type=float, default=0.35, help="share of the peak that is reached; measure yours"
    )
    command.add_argument("--images", type=int, help="training images, where they cannot be counted here")
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")
    command.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> None:
    """Print the plan; raises `SpinError` for what cannot be counted."""
    for name in ("gpus", "tflops", "utilisation", "images"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ParamsError(f"--{name} must be > 0, got {value}; choose a value in that range.")
    params = load_params(options.params)
    speed = _speed(options)
    from spin.tools.plan.counts import count_evaluated, count_images
    from spin.tools.plan.estimate import make_plan

    plan = make_plan(params, *_costs(params, count_images(params, options.images), count_evaluated(params)))
    hours = {item.name: item.tflop / speed / 3600 for item in plan.work}
    print(
        json.dumps({**asdict(plan), "hours": hours}, indent=2)
        if options.json
        else _text(plan, hours, options)
    )


def _speed(options: argparse.Namespace) -> float:
    """TFLOP/s that all GPUs together are taken to reach."""
    peak = options.tflops or PEAK_TFLOPS.get(options.gpu.lower())
    if peak is None:
        raise ParamsError(
            f"--gpu must be one of {', '.join(PEAK_TFLOPS)}, got {options.gpu}; or give its peak with --tflops."
        )
    return float(peak * options.utilisation * options.gpus)


def _costs(params: Params, images: int, evaluated: int) -> tuple[Any, int, int, int]:
    """The remaining arguments of `make_plan`."""
    from spin.models.flops import build_denoiser, measure_networks
    from spin.tools.plan.counts import configurations, count_adapters

    denoiser, vae = configurations(params)
    bytes_per = 4 if params.training.precision == "fp32" else 2
    cost = measure_networks(
        denoiser, vae, params.resolution, bytes_per, params.training.gradient_checkpointing
    )
    lora = params.training.lora
    adapters = count_adapters(build_denoiser(denoiser), lora.rank, lora.targets) if lora else 0
    return cost, images, evaluated, adapters


def _text(plan: "Plan", hours: dict[str, float], options: argparse.Namespace) -> str:
    rows = [
        (
            item.name,
            f"{item.images:,}",
            f"{item.forwards:,}",
            f"{item.tflop:,.4g}",
            f"{hours[item.name]:,.3g}",
        )
        for item in plan.work
    ]
    rows.append(("all", "", "", f"{plan.tflop:,.4g}", f"{sum(hours.values()):,.3g}"))
    headers = ("stage", "images or pairs", "denoiser forwards", "TFLOP", "hours")
    peak = options.tflops or PEAK_TFLOPS[options.gpu.lower()]
    return "\n".join(
        [
            f"{options.params}: {plan.images:,} training images, {plan.trainable:,} trained parameters.",
            "",
            tabulate(rows, headers, colalign=("left", *["right"] * 4), disable_numparse=True),
            "",
            f"Hours: on {options.gpus} x {options.gpu} at {options.utilisation:.0%} of {peak:g} TFLOP/s. The share is an "
            "assumption, not a measurement;",
            "scoring, loading and saving are not counted.",
            "",
            _amounts("Disk", plan.disk),
            *(["", _amounts("Memory of one GPU in training (estimate)", plan.memory)] if plan.memory else []),
        ]
    )


def _amounts(title: str, amounts: dict[str, float]) -> str:
    rows = [*((name, f"{amount:,.2f}") for name, amount in amounts.items())]
    rows.append(("all", f"{sum(amounts.values()):,.2f}"))
    return tabulate(rows, (title, "GiB"), colalign=("left", "right"), disable_numparse=True)
