"""`spin export`: a checkpoint in a format that other tools read."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: "Commands") -> None:
    """Add the command."""
    command = commands.add_parser("export", help="Write a checkpoint for diffusers and other tools.")
    command.add_argument("--checkpoint", type=Path, required=True, help="such as outputs/checkpoints/iter3")
    command.add_argument(
        "--format",
        required=True,
        choices=("pipeline", "unet", "lora", "single-file", "kohya"),
        help="a whole diffusers folder, its denoiser alone, a LoRA for diffusers, one file in the original layout, or a "
        "LoRA for ComfyUI and A1111",
    )
    command.add_argument(
        "--out", type=Path, required=True, help="a folder; for single-file and kohya a .safetensors"
    )
    command.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the weights")
    command.add_argument("--force", action="store_true", help="replace an earlier export")
    command.set_defaults(run=export)


def export(options: argparse.Namespace) -> None:
    """Write the export and say where it is."""
    from spin.tools.export.formats import export_checkpoint

    export_checkpoint(options.checkpoint, options.format, options.out, options.dtype, options.force)
    print(f"{options.out} holds {options.checkpoint} as {options.format}, weights in {options.dtype}.")
