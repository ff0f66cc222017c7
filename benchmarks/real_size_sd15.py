"""profiles/sd15.yaml, every stage, at the real Stable Diffusion 1.5 architecture with random weights on the CPU.

    python benchmarks/real_size_sd15.py --work /path/to/scratch --out benchmarks/results/sd15-real-size-cpu

Random weights cost what the published ones cost and say nothing about images: no score of this run means anything.
What it shows is that the profile's stages run at that size, how long each takes and how much memory it needs. The
changes to the profile are printed and recorded. The scratch folder needs 25 GB; `--tiny` tries the benchmark out.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from spin.evaluation.lineage import git_revision
from spin.params.schema import Params, load_params
from spin.runtime.files import replacing_file, write_json

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
}
"""Configs of Stable Diffusion 1.5 as published, where they differ from the defaults of diffusers and transformers."""
TINY = {
    "unet": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "attention_head_dim": 2},
    "vae": {"block_out_channels": [4, 4, 8, 8], "norm_num_groups": 4},
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}
CAPTIONS = (
    "a red circle on white",
    "a blue square on black",
    "a green circle above a red square",
    "a yellow square",
)


def build_base(folder: Path, tiny: bool) -> None:
    """Save the architecture with random weights in diffusers layout, in fp16 as much as is published."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from spin.tools.toy.tokenizer import write_tokenizer

    configs = {part: {**PUBLISHED[part], **(TINY[part] if tiny else {})} for part in PUBLISHED}
    if tiny:
        configs["unet"]["cross_attention_dim"] = TINY["text_encoder"]["hidden_size"]
    torch.manual_seed(0)
    write_tokenizer(folder.parent / "tokenizer")
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(**configs["unet"]).half(),
        vae=AutoencoderKL(**configs["vae"]).half(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).half(),
        tokenizer=CLIPTokenizer.from_pretrained(folder.parent / "tokenizer", model_max_length=77),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    counts = {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in configs}
    write_json(folder.parent / "parameters.json", counts)


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
        "num_val": 1,
        "num_test": 2,
        "small_images": small_images,
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
    old, new = leaves(yaml.safe_load(before)), leaves(raw)
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    hidden = {"base.source": "the real architecture with random weights", "data.path": "drawn images"}
    changes = [f"{name}: {old.get(name, '-')} -> {hidden.get(name, new.get(name, '-'))}" for name in names]
    return raw, changes


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf by its dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in leaves(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


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
        subprocess.run([sys.executable, __file__, "--work", str(work), "--build", *tiny], check=True)
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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, threads: {threads}, no GPU"
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers", "accelerate")}
    versions = {"python": platform.python_version(), **versions}
    commit = git_revision(ROOT)
    write_json(
        out.with_suffix(".json"), {"commit": commit, "machine": machine, "versions": versions, **result}
    )
    counts = ", ".join(f"{part} {count / 1e6:.1f} M" for part, count in result["parameters"].items())
    peak = max(result["stages"], key=lambda row: row["peak_memory_gib"])
    total = sum(row["seconds"] for row in result["stages"]) / 60
    text = [
        f"# {out.name}",
        "",
        f"Every stage of profiles/sd15.yaml at {'a tiny' if result['tiny'] else 'its real'} architecture ({counts} parameters) with random weights, on the",
        f"CPU: {total:.0f} minutes, at most {peak['peak_memory_gib']} GiB ({peak['stage']}). Scores of this run mean"
        " nothing; that it runs, memory and time do.",
        "",
        f"Commit {commit}; {machine}; {', '.join(f'{name} {number}' for name, number in versions.items())}.",
        "",
        "| stage | seconds | processor seconds | peak memory, GiB |",
        "|---|---:|---:|---:|",
        *(
            "| {stage} | {seconds} | {cpu_seconds} | {peak_memory_gib} |".format(**row)
            for row in result["stages"]
        ),
        "",
        "Changes to the profile:",
        "",
        *(f"- `{change}`" for change in result["changes"]),
    ]
    with replacing_file(out.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(f"Wrote {out}.json and .md")


if __name__ == "__main__":
    main()
