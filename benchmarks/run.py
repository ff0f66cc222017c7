"""How fast this project trains and draws beside the peers' way, in turns within one run.

    python -m benchmarks.run --size tiny --device cpu

training    this project against (a) Diffusion-DPO's recipe, one pair at a time with VAE and text encoder in the loop, and
            (b) the same at its best number of pairs at a time
drawing     against (c) diffusers' pipeline with one prompt a call, its default, and at its best batch
processes   two processes against one, and against (d) an all_reduce per parameter after the backward pass

Each contestant has processes of its own and works while the others wait. A ratio is taken within a round, so what slows
the machine for longer than a round slows both sides. It needs `spin` alone, and writes to NAME.json and NAME.md.
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import about_here, write_record
from benchmarks.speed.contestants import COMPILED, CONTESTANTS
from benchmarks.speed.report import Measured, fill_page, lines_of, shown
from benchmarks.speed.subjects import Job, OutOfMemoryTurnError, Subject, started
from benchmarks.speed.workspace import SIZES, Size, write_workspace

PARTS = ("training", "drawing", "processes")
PACKAGES = ("torch", "diffusers", "transformers", "accelerate")


@dataclass(frozen=True)
class Plan:
    """How long it is measured."""

    rounds: int
    updates: int
    """Of a turn of training."""
    drawings: int
    """Of the whole data set, in a turn."""
    sizes: tuple[int, ...]


def play(part: str, folder: Path, plan: Plan) -> dict[str, Measured]:
    """Let the contestants of a part work in turns; what each did, by label."""
    contestants, amount = CONTESTANTS[part], plan.drawings if part == "drawing" else plan.updates
    with ExitStack() as stack:
        running: dict[tuple[str, str, int], Subject] = {}
        for each in contestants:
            key = each.name, each.variant, each.processes
            if key not in running:
                job = Job(each.name, folder, each.variant, each.processes)
                running[key] = stack.enter_context(started(job))
        subjects = [running[each.name, each.variant, each.processes] for each in contestants]

        # How many at a time, compiled as eager so that one shape is compiled; and a turn that does not count.
        chosen: list[int] = []
        for each, subject in zip(contestants, subjects, strict=True):
            known = chosen[0] if each.label == COMPILED else each.size
            chosen.append(known or best_size(subject, plan.sizes, amount, each.label))
        for subject, size in zip(subjects, chosen, strict=True):
            subject.turn(1, size)

        # The rounds: everybody once, forwards and backwards by turns.
        results: list[list[Any]] = [[] for _ in contestants]
        order = list(range(len(contestants)))
        for number in range(plan.rounds):
            for index in order if number % 2 == 0 else reversed(order):
                results[index].append(subjects[index].turn(amount, chosen[index]))
            print(f"{part}: round {number + 1} of {plan.rounds}", flush=True)
    return {
        each.label: Measured.of(taken, size, each.processes)
        for each, taken, size in zip(contestants, results, chosen, strict=True)
    }


def best_size(subject: Subject, sizes: tuple[int, ...], amount: int, label: str) -> int:
    """The fastest of the numbers at a time, each tried twice; those that do not fit and all above them are left out."""
    rates: dict[int, float] = {}
    for size in sizes:
        try:
            subject.turn(1, size)  # memory is laid out, a loader started
            tried = [subject.turn(max(amount // 4, 1), size) for _ in range(2)]
        except OutOfMemoryTurnError:
            break
        rates[size] = max(each.items / each.seconds for each in tried)
        print(f"{label}: {rates[size]:.3g}/s at {size} a time", flush=True)
    if not rates:
        raise SystemExit(f"{label}: memory does not suffice for {sizes[0]} at a time")
    return max(rates, key=lambda size: rates[size])


def main() -> None:
    """Prepare, measure, print and write the result."""
    given = arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if given.device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    size = SIZES[given.size, given.device]
    size = replace(size, images=given.images or size.images, pairs=given.pairs or size.pairs)
    changes: dict[str, Any] = {key: yaml.safe_load(value) for key, value in given.set}
    parts = [part for part in PARTS if part in given.parts and possible(part, given.device)]
    with ExitStack() as stack:
        folder = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measured, rate, settings = {}, 0, {}
        for part in parts:
            pairs = size.pairs if part != "processes" else given.pairs or size.pairs_of_two
            fits = replace(size, pairs=pairs)
            most = size.images if part == "drawing" else pairs
            sizes = tuple(each for each in given.sizes or size.sizes if each <= most)
            if not sizes:
                raise SystemExit(f"--sizes must have one of at most {most}, got {given.sizes}; lower them.")
            room = folder.resolve() / ("two" if part == "processes" else "one")
            if not (room / "ready").is_file():
                rate = prepared(room, given, fits, changes)
            settings[room.name] = yaml.safe_load((room / "params.yaml").read_text("utf-8"))
            plan = Plan(given.rounds, given.updates, given.drawings, sizes)
            measured[part] = play(part, room, plan)
        write_result(given, measured, settings, rate, folder.resolve())


def prepared(room: Path, given: argparse.Namespace, size: Size, changes: dict[str, Any]) -> int:
    """Fill a folder with what the contestants work on; the rate of matrix products on the device, FLOP/s."""
    print(f"{given.size} on {given.device}: data, cache and opponents are made", flush=True)
    write_workspace(room, given.size, size, given.base and given.base.resolve(), changes)
    with started(Job("benchmarks.speed.workspace:prepare", room)) as subject:
        rate = subject.turn(1, 1).items
    (room / "ready").touch()
    return rate


def possible(part: str, device: str) -> bool:
    """Whether this machine can measure a part."""
    if part != "processes" or device == "cpu":
        return True
    import torch

    if torch.cuda.device_count() >= 2:
        return True
    print("processes: left out, since it takes two GPUs", flush=True)
    return False


def write_result(
    given: argparse.Namespace,
    measured: dict[str, dict[str, Measured]],
    settings: dict[str, Any],
    rate: int,
    folder: Path,
) -> None:
    """Print the tables and write NAME.json and NAME.md."""
    about = about_here(PACKAGES, given.device)
    if rate:
        about["product_tflops"] = rate / 1e12
    for part in measured:
        room = folder / ("two" if part == "processes" else "one")
        for each in measured[part].values():
            each.count_flops(room / "params.yaml")
    lines = lines_of(given, about, measured)
    print("\n" + "\n".join(lines), flush=True)
    result = about | {
        "size": given.size,
        "device": given.device,
        "rounds": given.rounds,
        "changes": dict(given.set),
        "settings": settings,
        "parts": {part: shown(each, rate) for part, each in measured.items()},
    }
    name = f"speed-{given.size}-{given.device}"
    write_record(given.out or Path("benchmarks/results") / name, result, lines)
    if given.page:
        fill_page(given.page, name, lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["tiny", "sd15", "sdxl"], required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--updates", type=positive, default=4, help="of a turn of training")
    parser.add_argument("--drawings", type=positive, default=1, help="of all images, in a turn")
    parser.add_argument("--images", type=positive, help="training images, in place of the size's")
    parser.add_argument("--pairs", type=positive, help="pairs of an update, in place of the size's")
    parser.add_argument("--sizes", nargs="+", type=positive, help="pairs or images at a time that are tried")
    parser.add_argument("--base", type=Path, help="a folder in diffusers layout, in place of random weights")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="a parameter"
    )
    parser.add_argument(
        "--work", type=Path, help="scratch folder, kept and used again; a temporary one if absent"
    )
    parser.add_argument(
        "--out", type=Path, help="results without suffix, in place of benchmarks/results/speed-..."
    )
    parser.add_argument("--page", type=Path, help="a page to put the tables into, between their marks")
    return parser.parse_args()


def positive(text: str) -> int:
    """A number above zero; argparse says what is wrong with another."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    main()
