"""`spin toy build`: train the embedded base and scorers again, from nothing."""

import argparse
from pathlib import Path


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the subcommand."""
    toy = commands.add_parser("toy", help="The embedded world.").add_subparsers(
        required=True, metavar="COMMAND"
    )
    build = toy.add_parser("build", help="Train the embedded base and scorers again, from nothing.")
    build.add_argument(
        "--out", type=Path, required=True, help="folder to write base/, early/, scorers/ and CARD.md to"
    )
    build.add_argument("--seed", type=int, default=0)
    build.add_argument(
        "--scale", type=float, default=1.0, help="share of the training steps; 0.002 only tries it out"
    )
    build.set_defaults(run=run_build)


def run_build(options: argparse.Namespace) -> None:
    """Train and write the assets."""
    from spin.tools.toy.build import build_toy

    build_toy(options.out, options.seed, options.scale)
