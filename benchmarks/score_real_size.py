"""What scoring with a real-size reward model takes: HPSv2's ViT-H-14 with random weights, through the command line.

    python -m benchmarks.score_real_size.py --work /path/to/scratch --out benchmarks/results/score-hpsv2-real-size

Random weights cost what the published ones cost and say nothing about images: no score of this run means anything.
The checkpoint (4 GB) is written to the scratch folder as it is published, {"state_dict": ...}, and kept there.
`spin score` then runs in a process of its own, whose peak memory and speed are written to NAME.json and NAME.md.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.record import about_here, about_line, write_record
from spin.runtime.files import read_json, replacing_file

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = "HPS_v2_compressed.pt"


def write_checkpoint(folder: Path) -> None:
    """Write a ViT-H-14 with random weights in the layout of the published file."""
    import open_clip
    import torch
    from open_clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(**open_clip.get_model_config("ViT-H-14"))
    with replacing_file(folder / CHECKPOINT) as temporary:
        torch.save({"state_dict": model.state_dict()}, temporary)


def write_images(folder: Path, count: int, resolution: int) -> None:
    """Write noise of `resolution` pixels a side with made-up prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, rows = np.random.default_rng(0), []
    for index in range(count):
        pixels = generator.integers(256, size=(resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(
            {"file_name": f"{index}.png", "text": f"a photograph of thing number {index} in the rain"}
        )
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)


def measure(work: Path, batch_size: int) -> dict[str, Any]:
    """Run `spin score` in a process of its own; return its peak memory, its time and how fast it scored."""
    command = [sys.executable, "-m", "spin", "score", "--images", str(work / "images"), "--scorers", "hps"]
    command += ["--source", f"hps={work}", "--device", "cpu", "--batch-size", str(batch_size)]
    command += ["--out", str(work / "scores.parquet")]
    with (work / "stderr.txt").open("w+", encoding="utf-8") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)  # this child's own usage, and no other's
        seconds = time.monotonic() - started
        log.seek(0)
        lines = log.read()
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(lines[-2000:])
    done = re.findall(r"score images: (\d+)/\1 images, ([\d.e+-]+)/s", lines)
    summary = read_json(work / "scores.json")
    return {
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),  # Linux counts in KiB
        "images_per_second": float(done[-1][1]),
        "seconds_in_all": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "images": summary["num_images"],
        "batch_size": batch_size,
        "scorer": summary["scorers"]["hps"],
        "versions": {"python": platform.python_version(), **summary["measured"]["versions"]},
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder with room for 4 GB")
    parser.add_argument("--out", type=Path, help="results without suffix")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--checkpoint-only", action="store_true", help="write the weights and end")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if given.checkpoint_only:
        write_checkpoint(work)
        return
    if given.out is None:
        parser.error("--out is needed")
    if not (work / CHECKPOINT).is_file():  # in another process: what this one held would count for its child
        command = [
            sys.executable,
            "-m",
            "benchmarks.score_real_size",
            "--work",
            str(work),
            "--checkpoint-only",
        ]
        subprocess.run(command, check=True, cwd=ROOT)
    write_images(work / "images", given.images, given.resolution)
    load = os.getloadavg()[0]
    result = measure(work, given.batch_size)
    write_result(given.out, {"resolution": given.resolution, "load_before": round(load, 2), **result})


def write_result(out: Path, result: dict[str, Any]) -> None:
    """Write NAME.json and NAME.md."""
    about = about_here(())
    rows = [
        ("peak memory of the process", f"{result['peak_memory_gib']} GiB"),
        ("images per second, decoding and preprocessing included", f"{result['images_per_second']:.3g}"),
        ("seconds in all, imports and loading 4 GB of weights included", str(result["seconds_in_all"])),
        ("processor seconds", str(result["cpu_seconds"])),
    ]
    about["versions"] |= result.pop("versions")
    lines = [
        f"# {out.name}",
        "",
        "`spin score` with HPSv2's architecture at its real size (ViT-H-14, float32) and random weights on the CPU,",
        f"{result['images']} images of {result['resolution']} px in batches of {result['batch_size']}."
        " The scores mean nothing; memory and time do.",
        "",
        f"{about_line(about)} Load {result['load_before']} before the run.",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    write_record(out, about | result, lines)


if __name__ == "__main__":
    main()
