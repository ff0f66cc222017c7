"""`python -m examples.photographs --work FOLDER`: pictures, a small base, `spin init`, every stage, and a LoRA at the end."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

RESOLUTION = 64
SIZES = {
    "full": {"vae": 800, "unet": 1500, "updates": 40, "batch": 16, "drawing": 15},
    "tiny": {"vae": 10, "unet": 5, "updates": 2, "batch": 4, "drawing": 2},
}
"""Updates of the base's autoencoder and UNet; of the iteration, its batch; steps of the samplers."""
COMMANDS = """
data
base
cache
opponents --name iter1
train --name iter1
prompt-set --name test
generate --name base
generate --name iter1
score --name base
score --name iter1
tables
report
export --checkpoint outputs/checkpoints/iter1 --format lora --out lora
"""
"""What `dvc repro` would run in a checkout, and the export."""


def smaller(params: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    """What `spin init` wrote, with one iteration for a CPU, and judged by the embedded scorers: there is no hub here."""
    params["opponents"] |= {"num_inference_steps": size["drawing"], "precision": "fp32"}
    params["training"] |= {
        "batch_size": size["batch"],
        "micro_batch_size": size["batch"],
        "precision": "fp32",
        "gradient_checkpointing": False,
        "lora": {"rank": 4, "alpha": 4.0, "targets": ["to_q", "to_k", "to_v", "to_out.0"]},
        "preview_every": size["updates"],
    }
    params["iterations"] = {
        "iter1": {
            "prev": "base",
            "learning_rate": 1e-4,
            "num_steps": size["updates"],
            "warmup_steps": 0,
            "beta": 2000.0,
        }
    }
    params["baselines"] = {}
    params["evaluate"] |= {
        "models": ["base", "iter1"],
        "num_inference_steps": size["drawing"],
        "guidance_scale": 2.0,
        "precision": "fp32",
    }
    params["scorers"] = {"aesthetic": {"source": "embedded"}, "clip": {"source": "embedded"}}
    params["tables"] |= {"average_of": ["aesthetic"], "over": ["base"]}
    return params


def run(work: Path, size: dict[str, int]) -> None:
    """Do all of it in `work`, which must be new; ends the process with a command's exit code if it fails."""
    import torch

    from examples.photographs.base import write_base
    from examples.photographs.pictures import write_pictures

    work.mkdir(parents=True)
    os.chdir(work)
    print(f"{write_pictures(Path('pictures'))} pictures with captions")
    torch.manual_seed(0)
    write_base(Path("tiny-sd"), Path("pictures"), RESOLUTION, size["vae"], size["unet"], _told)
    _spin(f"init --images pictures --base tiny-sd --resolution {RESOLUTION} --profile sd15-lora")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(smaller(params, size), sort_keys=False), encoding="utf-8")
    for command in COMMANDS.strip().splitlines():
        _spin(command)


def _spin(command: str) -> None:
    from spin.cli import main

    print(f"$ python -m spin {command}", flush=True)
    if code := main(command.split()):
        sys.exit(code)


def _told(step: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"base: update {step}, loss {loss:.4f}", flush=True)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m examples.photographs", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a new folder for all that is made")
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny shows only that it runs")
    options = parser.parse_args()
    if options.work.exists():
        parser.error(f"--work must be a new folder, but {options.work} exists; name another.")
    run(options.work, SIZES[options.size])


if __name__ == "__main__":
    main()
