"""What the contestants work on: a project's folder with data, base, cache and the first iteration's opponents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.speed.subjects import PARAMS, Turns
from spin.params.schema import Params

ROOT = Path(__file__).resolve().parents[2]
ITERATION = "iter1"


@dataclass(frozen=True)
class Size:
    """A profile of the project and how much of it is done."""

    profile: str
    images: int
    """Training images, drawn by one order; each has an opponent."""
    pairs: int
    """Of an update."""
    sizes: tuple[int, ...]
    """Pairs, or images, at a time that are tried for the best."""
    pairs_of_two: int
    """Of an update that is shared by two processes."""
    changes: dict[str, Any]
    """Parameters by dotted name in place of the profile's."""


_GPU = {
    "training.precision": "bf16",
    "opponents.precision": "bf16",
    "training.lora": None,
    "training.gradient_checkpointing": False,
}
_CPU = {
    "training.precision": "fp32",
    "opponents.precision": "fp32",
    "training.lora": None,
    "training.gradient_checkpointing": False,
    "resolution": 64,
    "opponents.num_inference_steps": 2,
    "cache.batch_size": 2,
}
SIZES = {
    ("tiny", "cpu"): Size("toy", 128, 32, (1, 2, 4, 8, 16, 32, 64, 128), 128, {}),
    ("tiny", "cuda"): Size("toy", 128, 32, (1, 2, 4, 8, 16, 32, 64, 128), 128, {}),
    ("sd15", "cpu"): Size("sd15", 4, 2, (1, 2), 2, _CPU),
    ("sd15", "cuda"): Size("sd15", 64, 64, (1, 2, 4, 8, 16, 32), 128, _GPU),
    ("sdxl", "cpu"): Size("sdxl-lora", 4, 2, (1, 2), 2, _CPU),
    ("sdxl", "cuda"): Size("sdxl-lora", 16, 16, (1, 2, 4, 8, 16), 32, _GPU),
}
"""On a CPU the real sizes show that they run, at 64 pixels; on a GPU they are measured at 512 and 1024."""


def write_workspace(folder: Path, name: str, size: Size, base: Path | None, changes: dict[str, Any]) -> None:
    """Write params.yaml and, for the real sizes, images and a base with random weights unless there is a `base`."""
    raw = _profile(size.profile)
    raw["iterations"][ITERATION] |= {"num_steps": 10**6, "warmup_steps": 0}
    raw["training"] |= {"batch_size": size.pairs, "micro_batch_size": size.pairs}
    raw["opponents"] |= {"shard_size": size.images, "latents": "reencode", "safety_checker": None}
    raw["training"] |= {"preview_every": 0, "checkpoint_every": 10**6}
    for key, value in {**size.changes, **changes}.items():
        section, _, leaf = key.rpartition(".")
        (raw[section] if section else raw)[leaf] = value
    if size.profile == "toy":
        raw["data"]["num_train"] = size.images
    else:
        raw["data"] = _profile("sd15-lora")["data"]  # a folder's
        raw["data"] |= {"path": str(folder / "images"), "num_val": 1, "num_test": 2}
    if base is not None or size.profile != "toy":
        raw["base"] |= {"source": str(base or folder / "base"), "revision": None, "config": None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PARAMS).write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    if size.profile != "toy":
        from benchmarks.real_size_sd15 import write_images

        write_images(folder / "images", size.images + 3, int(raw["resolution"]))  # 3 of them are held out
        if base is None:
            _write_base(folder / "base", name)


def _profile(name: str) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text("utf-8"))
    return raw


def _write_base(folder: Path, name: str) -> None:
    if name == "sd15":
        from benchmarks.sd15_base import build_base

        build_base(folder, tiny=False)
    else:
        from benchmarks.sdxl_base import build_base as build_sdxl

        build_sdxl(folder)


def prepare(params: Params, turns: Turns, variant: str) -> None:
    """A contestant that wins nothing: it makes the data set, cache and opponents, the latter in two steps."""
    from spin.runtime.devices import DTYPES, process_state
    from spin.runtime.gauges import product_rate
    from spin.stages.data import run_base, run_cache, run_data
    from spin.stages.sample import run_opponents

    run_data(params)
    run_base(params)
    run_cache(params)
    few = params.opponents.model_copy(update={"num_inference_steps": 2})
    run_opponents(params.model_copy(update={"opponents": few}), ITERATION)
    while turns.wait() is not None:
        rate = product_rate(process_state().device, DTYPES[params.training.precision])
        turns.finish(int(rate))
