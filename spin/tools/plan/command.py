"""`spin plan`: images, forwards, TFLOP, hours, disk and memory of a parameter file, before any of it is spent."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from spin.errors import ParamsError
from spin.params.schema import Params, load_params
from spin.rewards.strangers import warn_of_embedded
from spin.tools.plan.published import PEAK_FP32_TFLOPS, PEAK_TFLOPS

if TYPE_CHECKING:
    from spin.models.flops import NetworkCost
    from spin.tools.plan.estimate import Plan

DEFAULT_GPU, ASSUMED_SHARE = "a100", 0.35


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the subcommand."""
    command = commands.add_parser("plan", help="What a run will cost, before it starts.")
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file or profile")
    command.add_argument(
        "--gpu", help=f"one of {', '.join(PEAK_TFLOPS)} (default: a100), or with --tflops any name"
    )
    command.add_argument("--gpus", type=int, default=1, help="how many of them")
    command.add_argument(
        "--tflops", type=float, help="peak TFLOP/s of one GPU for all work, instead of the maker's figures"
    )
    command.add_argument(
        "--utilisation", type=float, help=f"share of the peak that is reached (default: {ASSUMED_SHARE})"
    )
    command.add_argument(
        "--measure",
        action="store_true",
        help="time a few real steps of the base on this machine, and plan for GPUs like it",
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
    _check_measure(options)
    params = load_params(options.params)
    if params.data.kind != "toy":
        warn_of_embedded({name: given.source for name, given in params.scorers.items()})
    if options.measure:
        from spin.tools.plan.measured import check_base

        check_base(params)
    else:
        _peaks(options)
    plan, cost, scorers = _plan(params, options)
    rates = _measured(params, plan, cost, scorers) if options.measure else _assumed(options)
    hours = {}
    for item in plan.work:
        gpus = 1 if item.one_gpu else options.gpus
        hours[item.name] = sum(tflop / rates.of(part) for part, tflop in item.parts.items()) / gpus / 3600
    if options.json:
        work = [{**asdict(item), "tflop": item.tflop} for item in plan.work]
        print(json.dumps({**asdict(plan), "work": work, "hours": hours, "rates": rates.told}, indent=2))
    else:
        from spin.tools.plan.counts import notes_on

        print(_text(plan, hours, rates, options, notes_on(params, options.images)))


def _check_measure(options: argparse.Namespace) -> None:
    given = [name for name in ("gpu", "tflops", "utilisation") if getattr(options, name) is not None]
    if options.measure and given:
        raise ParamsError(
            f"--measure must stand without --{given[0]}, which says what it measures; leave one of them out."
        )


@dataclass(frozen=True)
class Rates:
    """How fast the parts of the work are done."""

    of: Callable[[str], float]
    """Part -> TFLOP/s of one GPU."""
    said: list[str]
    """Where they come from, in lines to print."""
    told: dict[str, Any]
    """The same for JSON."""


def _assumed(options: argparse.Namespace) -> Rates:
    """A share of the maker's figures."""
    from spin.tools.plan.estimate import in_fp32

    peak, peak_fp32 = _peaks(options)
    share = options.utilisation or ASSUMED_SHARE
    said = [
        f"Time: on {options.gpus} x {options.gpu or DEFAULT_GPU} at {share:.0%} of {peak:g} TFLOP/s, and of {peak_fp32:g} "
        "for the autoencoder, the scorers and",
        "whatever else is in float32. The share is an assumption, not a measurement: --measure.",
    ]
    return Rates(lambda part: share * (peak_fp32 if in_fp32(part) else peak), said, {"utilisation": share})


def _peaks(options: argparse.Namespace) -> tuple[float, float]:
    """TFLOP/s at most of one GPU: in half precision, and in float32."""
    gpu = (options.gpu or DEFAULT_GPU).lower()
    if options.tflops is None and gpu not in PEAK_TFLOPS:
        raise ParamsError(
            f"--gpu must be one of {', '.join(PEAK_TFLOPS)}, got {options.gpu}; or give its peak with --tflops."
        )
    if options.tflops is not None:
        return options.tflops, options.tflops
    return PEAK_TFLOPS[gpu], PEAK_FP32_TFLOPS[gpu]


def _measured(
    params: Params, plan: "Plan", cost: "NetworkCost", scorers: "Mapping[str, float | None]"
) -> Rates:
    """What this machine does."""
    from spin.tools.plan.measured import measure_rates

    parts = {part for item in plan.work for part in item.parts}
    machine = measure_rates(params, parts, cost, scorers)
    rows = [
        (part, f"{rate:.3g}", f"{rate / product:.1%}" if product else "")
        for part, (rate, product) in machine.rates.items()
    ]
    headers = (f"measured on {machine.device}", "TFLOP/s", "of matrix products")
    said = [tabulate(rows, headers, colalign=("left", "right", "right"), disable_numparse=True), ""]
    said += [f"Time: on devices like this one. {machine.missing_line}".rstrip()]
    return Rates(lambda part: machine.rates[part][0], said, asdict(machine))


def _plan(
    params: Params, options: argparse.Namespace
) -> "tuple[Plan, NetworkCost, Mapping[str, float | None]]":
    """Count what there is and what it costs: all of it, a sample through the networks, an image by each scorer."""
    from spin.models.flops import build_denoiser, measure_networks
    from spin.rewards.costs import scoring_costs
    from spin.tools.plan.counts import (
        configurations,
        count_adapters,
        count_images,
        count_pair_images,
        count_pairs,
        count_prompts,
        count_rows,
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
        rows=count_rows(params, images),
        pair_images=count_pair_images(params, images, options.pairs),
        pairs=count_pairs(params, images, options.pairs),
        prompts=prompts,
        adapters=count_adapters(build_denoiser(denoiser), lora.rank, lora.targets) if lora else 0,
        scorers=scoring_costs(params),
    )
    return make_plan(params, cost, counts), cost, counts.scorers


def _text(
    plan: "Plan",
    hours: dict[str, float],
    rates: Rates,
    options: argparse.Namespace,
    notes: list[str],
) -> str:
    rows = [
        (
            item.name,
            f"{item.images:,}",
            f"{item.forwards:,}",
            f"{item.reference:,}",
            f"{item.tflop:,.4g}",
            duration(hours[item.name]),
        )
        for item in plan.work
    ]
    rows.append(("all", "", "", "", f"{plan.tflop:,.4g}", duration(sum(hours.values()))))
    headers = ("stage", "images or pairs", "denoiser forwards", "of the reference", "TFLOP", "time")
    alone = "A comparison runs on one GPU. " if any(item.one_gpu for item in plan.work) else ""
    unknown = f"the scorers {', '.join(plan.not_counted)}, " if plan.not_counted else ""
    return "\n".join(
        [
            f"{options.params}: {plan.images:,} training images, {plan.trainable:,} trained parameters.",
            "",
            tabulate(rows, headers, colalign=("left", *["right"] * 5), disable_numparse=True),
            "",
            *rates.said,
            f"{alone if options.gpus > 1 else ''}Not counted: "
            f"{unknown}previews, text encoders, loading, decoding and saving.",
            *notes,
            "",
            _amounts("Disk", plan.disk),
            *(["", _amounts("Memory of one GPU in training (estimate)", plan.memory)] if plan.memory else []),
        ]
    )


def duration(hours: float) -> str:
    """Hours to three digits in the unit that a reader has a feeling for: 2.9 s, 5.86 min, 12.5 h, 2,944 h."""
    for unit, of_an_hour in (("s", 3600), ("min", 60), ("h", 1)):
        amount = hours * of_an_hour
        if amount < 60 or unit == "h":
            break
    return f"{amount:,.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"


def _amounts(title: str, amounts: dict[str, float]) -> str:
    rows = [*((name, f"{amount:,.2f}") for name, amount in amounts.items())]
    rows.append(("all", f"{sum(amounts.values()):,.2f}"))
    return tabulate(rows, (title, "GiB"), colalign=("left", "right"), disable_numparse=True)
