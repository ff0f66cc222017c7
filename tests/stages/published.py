"""What profiles/paper.yaml fetches from the hub, small, in folders laid out as the repositories are."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from spin.prompts.named import FIGURE_11, HPS_STYLES, NAMED, PARTI_CATEGORIES
from tests.data.sources import write_pickapic
from tests.models.bases import WEIGHTS
from tests.models.tiny import ROOT

PER_STYLE, GROUP = 4, 2
"""Prompts of a style of the HPSv2 benchmark, and of one of its groups; published are 800 and 80."""
PER_SPLIT = 4
"""Prompts of Pick-a-Pic's unique splits as `write_pickapic` makes them; published are 500."""


def shrink_published_sets(patch: pytest.MonkeyPatch) -> None:
    """Publish fewer prompts under the same names; how many the real ones have is tested where they are read."""
    counts = {
        "hpsv2": dict.fromkeys(HPS_STYLES, PER_STYLE),
        "parti_prompts": dict.fromkeys(PARTI_CATEGORIES, 1),
    }
    counts |= {f"pickapic_{split}_unique": {"": PER_SPLIT} for split in ("test", "validation")}
    for name, by_category in counts.items():
        patch.setitem(NAMED, name, replace(NAMED[name], counts=by_category))
    patch.setattr("spin.evaluation.styles.HPS_PER_STYLE", PER_STYLE)
    patch.setattr("spin.evaluation.styles.GROUP", GROUP)


def write_hub(folder: Path, base: Path) -> Path:
    """All repositories below `folder`, each where its hub id says; released denoisers are the base's, moved.

    A denoiser lies in unet/ of its repository here; one at the root of it is tested in tests/models.
    """
    shutil.copytree(base, folder / "stable-diffusion-v1-5" / "stable-diffusion-v1-5")
    ids = [released["source"] for released in profile()["released"].values()]
    for seed, repository in enumerate(ids, start=1):
        shutil.copytree(base / "unet", folder / repository / "unet")
        _move(folder / repository / "unet" / WEIGHTS, seed)
    write_pickapic(folder / "yuvalkirstain" / "pickapic_v2")
    _write_parti(folder / "PartiPrompts.tsv")
    benchmark = folder / "zhwang" / "HPDv2" / "benchmark"
    benchmark.mkdir(parents=True)
    for style in HPS_STYLES:
        prompts = [f"a {colour} {style}" for colour in ("red", "blue", "green", "yellow")]
        (benchmark / f"{style}.json").write_text(json.dumps(prompts))
    return folder


def _move(weights: Path, seed: int) -> None:
    """Give a denoiser weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    state = load_file(weights)
    moved = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in state.items()
    }
    save_file(moved, weights)


def _write_parti(path: Path) -> None:
    """A row of every category, in the columns of the published file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["Prompt", "Category", "Challenge", "Note"])
        for index, category in enumerate(PARTI_CATEGORIES):
            prompt = FIGURE_11[index % len(FIGURE_11)]
            writer.writerow([f'{prompt}, "number {index}"', category, ("Basic", "Quantity")[index % 2], ""])


def profile() -> dict[str, Any]:
    """profiles/paper.yaml as it stands."""
    return read_profile("paper")


def read_profile(name: str) -> dict[str, Any]:
    """A profile as it stands."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8"))
    return raw


def small_profile(hub: Path) -> dict[str, Any]:
    """profiles/paper.yaml with what must be local or smaller, and nothing else."""
    raw = profile()

    # Local: repositories are folders, and reward models those of the package.
    for place in (raw["base"], raw["data"], *raw["released"].values()):
        place["source"] = str(hub / place["source"])
    splits = sorted((hub / "yuvalkirstain" / "pickapic_v2" / "data").glob("*_unique-*"))
    copies = {"pickapic": splits[0], "validation": splits[1]}
    copies |= {"parti": hub / "PartiPrompts.tsv", "hps": hub / "zhwang/HPDv2/benchmark"}
    for name, copy in copies.items():
        raw["prompt_sets"][name]["source"] = str(copy)
    raw["scorers"] = {name: {"source": "embedded"} for name in raw["scorers"]}

    # Smaller: pixels, prompts, images, steps.
    raw["resolution"] = 32
    raw["data"] |= {"num_val": PER_SPLIT, "num_test": PER_SPLIT}
    for section in ("opponents", "evaluate"):
        raw[section] |= {"num_inference_steps": 2, "precision": "fp32"}
    raw["evaluate"]["images_per_prompt"] = 2
    raw["training"] |= {"batch_size": 4, "micro_batch_size": 4}
    for stage in (*raw["iterations"].values(), *raw["baselines"].values()):
        stage |= {"num_steps": 2, "warmup_steps": 1, "learning_rate": 1e-3}  # so few steps have to be long
    raw["continual"]["f5"]["every"] = 1
    raw["tables"] |= {"bootstrap_samples": 50, "grid_prompts": 5}
    return raw
