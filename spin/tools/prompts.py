"""`spin prompts NAME_OR_FILE`: look at a prompt set, and bring it to a parquet."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spin.errors import DataError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: "Commands") -> None:
    """Add the command."""
    command = commands.add_parser("prompts", help="Count the prompts of a set by category.")
    command.add_argument("set", help="pickapic_test_unique, parti_prompts, hpsv2, ..., or a file of prompts")
    command.add_argument("--source", type=Path, help="your own copy of a named set; by default the hub")
    command.add_argument("--out", type=Path, help="write prompt_id, prompt, category to this .parquet")
    command.set_defaults(run=show)


def show(options: argparse.Namespace) -> None:
    """Print how many prompts each category has, and write the set if asked to."""
    from tabulate import tabulate

    from spin.prompts.sets import count_by_category, load_prompt_set
    from spin.runtime.files import replacing_file

    if options.out is not None and options.out.suffix != ".parquet":
        raise DataError(f"--out must be a file that ends in .parquet, got {options.out}; name one.")
    prompts = load_prompt_set(options.set, options.source)
    counts = count_by_category(prompts)
    if set(counts) != {""}:
        print(tabulate([*counts.items()], headers=["category", "prompts"], disable_numparse=True))
        print()
    print(f"{options.set}: {len(prompts)} prompts, {prompts['prompt'].nunique()} different ones")
    if options.out is not None:
        with replacing_file(options.out) as temporary:
            prompts.to_parquet(temporary, index=False)
        print(f"wrote {options.out}")
