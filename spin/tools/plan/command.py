"""`spin plan`: images, forwards, TFLOP, hours, disk and memory of a parameter file, before any of it is spent."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from spin.errors import ParamsError
from spin.params.schema import Params, load_params
from spin.tools.plan.published import PEAK_FP32_TFLOPS, PEAK_TFLOPS

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
        "--tflops", type=float, help="peak TFLOP/s of one GPU for all work, instead of the maker's figures"
    )
    command.add_argument(
        "--utilisation", type=float, default=0.35, help="share of the peak that is reached; measure yours"
    )
    command.add_argument("--images", type=int, help="training images, where they cannot be counted here")
    command.add_argument(
        "--pairs", type=int, help="preference pairs, likewise; without, as many an image as Pick-a-Pic v2 has"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")
    command.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> None:
    """Print the plan; raises `SpinError` for what cannot be counted."""
    for name in ("gpus", "tflops", "utilisation", "images", "pairs"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ParamsError(f"--{name} must be > 0, got {value}; choose a value in that range.")
    params = load_params(options.params)
    peak, peak_fp32 = _peaks(options)
    plan = _plan(params, options)
    hours = {}
    for item in plan.work:
        gpus = 1 if item.one_gpu else options.gpus
        reached = gpus * options.utilisation * (peak_fp32 if item.fp32 else peak)
        hours[item.name] = item.tflop / reached / 3600
    print(
        json.dumps({**asdict(plan), "hours": hours}, indent=2)
        if options.json
        else _text(plan, hours, options)
    )


def _peaks(options: argparse.Namespace) -> tuple[float, float]:
    """TFLOP/s at most of one GPU: of the denoiser in half precision, of the scorers in float32."""
    gpu = options.gpu.lower()
    if options.tflops is None and gpu not in PEAK_TFLOPS:
        raise ParamsError(
            f"--gpu must be one of {', '.join(PEAK_TFLOPS)}, got {options.gpu}; or give its peak with --tflops."
        )
    if options.tflops is not None:
        return options.tflops, options.tflops
    return PEAK_TFLOPS[gpu], PEAK_FP32_TFLOPS[gpu]


def _plan(params: Params, options: argparse.Namespace) -> "Plan":
    """Count what there is and what it costs."""
    from spin.models.flops import build_denoiser, measure_networks
    from spin.rewards.costs import scoring_costs
    from spin.tools.plan.counts import (
        configurations,
        count_adapters,
        count_images,
        count_pair_images,
        count_prompts,
    )
    from spin.tools.plan.estimate import Counts, make_plan

    images, prompts = count_images(params, options.images), count_prompts(params)
    denoiser, vae, tokens = configurations(params)
    lora = params.training.lora
    cost = measure_networks(
        denoiser,
        vae,
        params.resolution,
        4 if params.training.precision == "fp32" else 2,
        params.training.gradient_checkpointing,
        tokens,
        lora,
    )
    counts = Counts(
        images=images,
        pair_images=count_pair_images(params, images, options.pairs),
        prompts=prompts,
        adapters=count_adapters(build_denoiser(denoiser), lora.rank, lora.targets) if lora else 0,
        scorers=scoring_costs(params),
    )
    return make_plan(params, cost, counts)


def _text(plan: "Plan", hours: dict[str, float], options: argparse.Namespace) -> str:
    rows = [
        (
            item.name,
            f"{item.images:,}",
            f"{item.forwards:,}",
            f"{item.reference:,}",
            f"{item.tflop:,.4g}",
            f"{hours[item.name]:,.3g}",
        )
        for item in plan.work
    ]
    rows.append(("all", "", "", "", f"{plan.tflop:,.4g}", f"{sum(hours.values()):,.3g}"))
    headers = ("stage", "images or pairs", "denoiser forwards", "of the reference", "TFLOP", "hours")
    peak, peak_fp32 = _peaks(options)
    alone = (
        " A comparison runs on one." if options.gpus > 1 and any(item.one_gpu for item in plan.work) else ""
    )
    unknown = f"the scorers {', '.join(plan.not_counted)}, " if plan.not_counted else ""
    return "\n".join(
        [
            f"{options.params}: {plan.images:,} training images, {plan.trainable:,} trained parameters.",
            "",
            tabulate(rows, headers, colalign=("left", *["right"] * 5), disable_numparse=True),
            "",
            f"Hours: on {options.gpus} x {options.gpu} at {options.utilisation:.0%} of {peak:g} TFLOP/s, in scoring, "
            f"which is in float32, of {peak_fp32:g}.{alone}",
            "The share is an assumption, not a measurement. Not counted: "
            f"{unknown}previews, text encoders, loading, decoding and saving.",
            "",
            _amounts("Disk", plan.disk),
            *(["", _amounts("Memory of one GPU in training (estimate)", plan.memory)] if plan.memory else []),
        ]
    )


def _amounts(title: str, amounts: dict[str, float]) -> str:
    rows = [*((name, f"{amount:,.2f}") for name, amount in amounts.items())]
    rows.append(("all", f"{sum(amounts.values()):,.2f}"))
    return tabulate(rows, (title, "GiB"), colalign=("left", "right"), disable_numparse=True)
