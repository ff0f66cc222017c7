"""`spin score --images DIR --scorers a,b --out scores.parquet`: judge any images, without the rest of the project."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spin import __version__
from spin.errors import ScoreError
from spin.rewards.names import WITHOUT_PROMPTS

DTYPES = ("fp32", "fp64", "bf16", "fp16")
LIBRARIES = ("torch", "torchvision", "transformers", "open_clip_torch", "pillow")
"""Each can move a score: stated with it."""
SHOWN = 10
"""Flagged images that are named on the terminal; the summary names all."""


def add_options(
    command: argparse.ArgumentParser, run_stage: Callable[[argparse.Namespace], int | None]
) -> None:
    """Give `spin score` its two forms: --name MODEL is the stage, --images anything else."""
    either = command.add_mutually_exclusive_group(required=True)
    either.add_argument("--name", help="score a model's samples, as params.yaml says")
    either.add_argument(
        "--images",
        type=Path,
        help="a folder with manifest.parquet, metadata.csv, metadata.jsonl or a .txt beside each image; "
        "or a .parquet, .csv or .jsonl with the columns image and prompt",
    )
    alone = command.add_argument_group("with --images")
    alone.add_argument(
        "--scorers",
        help="names with commas between, such as pickscore,hps_v21,clip; with aesthetic alone no prompts are needed",
    )
    alone.add_argument(
        "--out",
        type=Path,
        default=Path("scores.parquet"),
        help="a .parquet (default: scores.parquet); the summary goes beside it as .json",
    )
    alone.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[SCORER=]SOURCE",
        help="hub (the published weights, the default), embedded, or a folder; without a name, for all",
    )
    alone.add_argument("--device", help="cpu, cuda, cuda:1, mps; by default the accelerator if there is one")
    alone.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the forward passes; fp32 is exact")
    alone.add_argument("--batch-size", type=int, default=32)
    command.set_defaults(run=lambda options: score(options) if options.images else run_stage(options))


def score(options: argparse.Namespace) -> None:
    """Score the images that the options name, write table and summary, and print the means."""
    names, sources, out = _chosen(options)
    import torch  # after the options were found good

    from spin.rewards.listing import open_image, read_listing
    from spin.rewards.loading import load_scorer
    from spin.rewards.scoring import score_images
    from spin.rewards.strangers import warn_of_embedded
    from spin.toy.world import RESOLUTION

    # Before gigabytes of weights are read.
    folder, listing = read_listing(options.images, prompts=not set(names) <= {*WITHOUT_PROMPTS})
    if open_image(folder / listing["image"][0]).size != (RESOLUTION, RESOLUTION):
        warn_of_embedded(sources)
    device = options.device or _default_device()
    _check_device(device)
    dtypes = dict(zip(DTYPES, (torch.float32, torch.float64, torch.bfloat16, torch.float16), strict=True))
    scorers = [load_scorer(name, sources[name], device, dtypes[options.dtype]) for name in names]
    made = {"device": torch.device(device).type, "dtype": options.dtype, "batch_size": options.batch_size}
    measured = {**made, "versions": {"spin": __version__, **{name: version(name) for name in LIBRARIES}}}
    summary = score_images((folder, listing), scorers, out, options.batch_size, measured)
    print(summary_table(summary))
    print(
        f"\n{out} has a row for each of {summary['num_images']} images, {out.with_suffix('.json')} the summary."
    )


def summary_table(summary: Mapping[str, Any]) -> str:
    """Lay out a summary of `score_images` as text: one line a scorer, then what was left out."""
    from tabulate import tabulate

    rows = [
        [
            name,
            *(f"{summary[kind][name]:.4f}" for kind in ("mean", "median", "std")),
            card["scale"],
            card["version"],
            card["sha256"][:12],
        ]
        for name, card in summary["scorers"].items()
    ]
    headers = ["scorer", "mean", "median", "std", "scale", "version", "weights"]
    lines = [tabulate(rows, headers=headers, disable_numparse=True)]
    flagged: Sequence[str] = summary["flagged_images"]
    if flagged:
        named = ", ".join(flagged[:SHOWN]) + (", ..." if len(flagged) > SHOWN else "")
        lines.append(
            f"\n{len(flagged)} of {summary['num_images']} images are of a single colour and take no part in"
            f" these numbers (column flagged): {named}"
        )
    return "\n".join(lines)


def _chosen(options: argparse.Namespace) -> tuple[list[str], dict[str, str | None], Path]:
    """Read --scorers, --source and --out; raises `ScoreError` for what does not fit together."""
    names = [name.strip() for name in (options.scorers or "").split(",") if name.strip()]
    if not names:
        raise ScoreError("--images needs --scorers, got none; name them, such as --scorers pickscore,clip.")
    if len(set(names)) < len(names):
        raise ScoreError(f"--scorers must name each scorer once, got {options.scorers}; correct the list.")
    if options.out.suffix != ".parquet":
        raise ScoreError(f"--out must be a file that ends in .parquet, got {options.out}; name one.")
    if options.batch_size < 1:
        raise ScoreError(f"--batch-size must be at least 1, got {options.batch_size}; correct it.")
    for_all = next((given for given in reversed(options.source) if "=" not in given), None)
    sources = dict.fromkeys(names, for_all)
    for given in options.source:
        name, equals, source = given.partition("=")
        if equals and name not in sources:
            raise ScoreError(
                f"--source {given} must name one of the scorers {', '.join(names)}, got {name}; correct it."
            )
        if equals:
            sources[name] = source
    return names, sources, options.out


def _default_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ScoreError(
            f"--device must be one that this machine has, got {device} ({reason}); leave it out or give cpu."
        ) from None
