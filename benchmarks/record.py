"""A result on disk: NAME.json with all of it, NAME.md for people, both saying where it was measured."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spin.evaluation.lineage import revision_line
from spin.runtime.files import replacing_file, write_json


def about_here(packages: Sequence[str], device: str = "cpu") -> dict[str, Any]:
    """Commit, machine and versions; with the device `cuda` the GPUs and their driver's version of CUDA too."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    return {
        "commit": revision_line(Path(__file__).parent),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, threads: {threads}, {_gpus(device)}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def _gpus(device: str) -> str:
    if device != "cuda":
        return "no GPU"
    import torch

    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def about_line(about: dict[str, Any]) -> str:
    """The same in a sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return f"Commit {about['commit']}; {about['machine']}; {versions}."


def write_record(out: Path, result: dict[str, Any], lines: Sequence[str]) -> None:
    """Write `out`.json and `out`.md and say so."""
    write_json(out.with_suffix(".json"), result)
    with replacing_file(out.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"Wrote {out}.json and .md")
