"""profiles/sd15.yaml, every stage, at the real Stable Diffusion 1.5 architecture with random weights on the CPU.

    python -m benchmarks.real_size_sd15 --work /path/to/scratch --out benchmarks/results/sd15-real-size-cpu

Random weights cost what the published ones cost and say nothing about images: no score of this run means anything.
What it shows is that the profile's stages run at that size, how long each takes and how much memory it needs. The
changes to the profile are printed and recorded. The scratch folder needs 25 GB; `--tiny` tries the benchmark out.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from benchmarks.record import about_here, about_line, write_record
from benchmarks.sd15_base import build_base
from spin.params.schema import Params, load_params
from spin.tracking.configuration import flatten

ROOT = Path(__file__).resolve().parent.parent
CAPTIONS = (
    "a red circle on white",
    "a blue square on black",
    "a green circle above a red square",
    "a yellow square",
)


def write_images(folder: Path, count: int, resolution: int) -> None:
    """Write `count` drawn images with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = Image.new("RGB", (resolution, resolution + 8 * index), (40 * index % 256, 128, 200))
        ImageDraw.Draw(image).ellipse((4, 4, resolution - 4, resolution - 4), fill=(255, 40 * index % 256, 0))
        image.save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"{CAPTIONS[index % len(CAPTIONS)]} {index}", encoding="utf-8")


def changed_profile(
    base: Path, images: Path, resolution: int, precision: str | None
) -> tuple[dict[str, Any], list[str]]:
    """profiles/sd15.yaml with what a CPU and a few images ask for, and the changes in words."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "profiles" / "sd15.yaml").read_text(encoding="utf-8"))
    before = yaml.safe_dump(raw, sort_keys=False)
    small_images = raw["data"]["small_images"]
    raw["base"] |= {"source": str(base), "revision": None}
    raw["resolution"] = resolution
    raw["data"] = {
        "kind": "folder",
        "path": str(images),
        "trigger": None,
        "repeats": False,
        "num_val": 1,
        "num_test": 2,
        "small_images": small_images,
        "aspect_buckets": None,
    }
    for section in ("opponents", "evaluate"):
        raw[section] |= {"num_inference_steps": 2, "batch_size": 2, "precision": "fp32"}
    raw["evaluate"]["images_per_prompt"] = 1
    raw["cache"]["batch_size"] = 2
    raw["training"] |= {"batch_size": 2, "micro_batch_size": 1}
    if precision:
        raw["training"]["precision"] = precision
    for stage in (*raw["iterations"].values(), *raw["baselines"].values()):
        stage |= {"num_steps": 2, "warmup_steps": 1}
    raw["scorers"] = {name: {"source": "embedded"} for name in raw["scorers"]}
    raw["tables"] |= {"bootstrap_samples": 200, "grid_prompts": 2}
    old, new = flatten(yaml.safe_load(before)), flatten(raw)
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    hidden = {"base.source": "the real architecture with random weights", "data.path": "drawn images"}
    changes = [f"{name}: {old.get(name, '-')} -> {hidden.get(name, new.get(name, '-'))}" for name in names]
    return raw, changes


def stages_of(params: Params) -> list[list[str]]:
    """The arguments of every stage, in the order of the pipeline."""
    commands = [["data"], ["base"], ["cache"]]
    for name in params.iterations:
        commands += [["opponents", "--name", name], ["train", "--name", name]]
    commands += [["train", "--name", name] for name in params.baselines]
    commands += [["prompt-set", "--name", name] for name in params.prompt_sets]
    for prompts in params.evaluate.prompt_sets:
        for name in params.evaluate.models:
            commands += [[stage, "--prompts", prompts, "--name", name] for stage in ("generate", "score")]
        commands.append(["tables", "--prompts", prompts])
    return [*commands, ["report"], ["register"]]


def measure(arguments: list[str], work: Path) -> dict[str, Any]:
    """Run one stage in a process of its own; return its wall time, processor time and peak memory."""
    log_path = work / "log.txt"
    with log_path.open("a", encoding="utf-8") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "spin", *arguments],
            cwd=work,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SPIN_TRACKING": "off", "HF_HUB_OFFLINE": "1"},
        )
        _, status, usage = os.wait4(process.pid, 0)  # this child's own usage, and no other's
        seconds = time.monotonic() - started
    if os.waitstatus_to_exitcode(status):
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise SystemExit(f"{tail}\nspin {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "stage": " ".join(part for part in arguments if not part.startswith("--")),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),  # Linux counts in KiB
    }


def main() -> None:
    """Build, run, measure and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, empty or of an earlier run")
    parser.add_argument("--out", type=Path, help="results without suffix")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="in place of the profile's")
    parser.add_argument("--tiny", action="store_true", help="a tiny architecture, to try the benchmark out")
    parser.add_argument("--build", action="store_true", help="write the base and end")
    given = parser.parse_args()
    work = given.work.resolve()
    base = work / "base"
    work.mkdir(parents=True, exist_ok=True)
    if given.build:
        build_base(base, given.tiny)
        return
    if given.out is None:
        parser.error("--out is needed")
    if not (
        work / "parameters.json"
    ).is_file():  # in another process: what this one held would count for its children
        tiny = ["--tiny"] if given.tiny else []
        subprocess.run(
            [sys.executable, "-m", "benchmarks.real_size_sd15", "--work", str(work), "--build", *tiny],
            check=True,
            cwd=ROOT,
        )
    write_images(work / "images", given.images, given.resolution)
    raw, changes = changed_profile(base, work / "images", given.resolution, given.precision)
    print("Changes to profiles/sd15.yaml:", *changes, sep="\n  ", flush=True)
    (work / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    rows = []
    for arguments in stages_of(load_params(work / "params.yaml")):
        rows.append(measure(arguments, work))
        print("{stage}: {seconds} s, {peak_memory_gib} GiB".format(**rows[-1]), flush=True)
    parameters = yaml.safe_load((work / "parameters.json").read_text(encoding="utf-8"))
    write_result(
        given.out, {"tiny": given.tiny, "parameters": parameters, "changes": changes, "stages": rows}
    )


def write_result(out: Path, result: dict[str, Any]) -> None:
    """Write NAME.json and NAME.md."""
    about = about_here(("torch", "diffusers", "transformers", "accelerate"))
    counts = ", ".join(f"{part} {count / 1e6:.1f} M" for part, count in result["parameters"].items())
    peak = max(result["stages"], key=lambda row: row["peak_memory_gib"])
    total = sum(row["seconds"] for row in result["stages"]) / 60
    size = "a tiny" if result["tiny"] else "its real"
    row = "| {stage} | {seconds} | {cpu_seconds} | {peak_memory_gib} |"
    lines = [
        f"# {out.name}",
        "",
        f"Every stage of profiles/sd15.yaml at {size} architecture ({counts} parameters) with random weights, on the",
        f"CPU: {total:.0f} minutes, at most {peak['peak_memory_gib']} GiB ({peak['stage']}). Scores of this run mean"
        " nothing; that it runs, memory and time do.",
        "",
        about_line(about),
        "",
        "| stage | seconds | processor seconds | peak memory, GiB |",
        "|---|---:|---:|---:|",
        *(row.format(**stage) for stage in result["stages"]),
        "",
        "Changes to the profile:",
        "",
        *(f"- `{change}`" for change in result["changes"]),
    ]
    write_record(out, about | result, lines)


if __name__ == "__main__":
    main()
