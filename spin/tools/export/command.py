"""`spin export`: a checkpoint in a format that other tools read."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spin.errors import ModelError

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
    hub = command.add_argument_group("sharing")
    hub.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="upload the export with a card to NAME or OWNER/NAME of the Hugging Face hub, as a private model",
    )
    hub.add_argument("--public", action="store_true", help="as one that everybody sees")
    hub.add_argument(
        "--license",
        metavar="ID",
        help="of the weights, as the hub writes it (default: what the base's card says)",
    )
    command.set_defaults(run=export)


def export(options: argparse.Namespace) -> None:
    """Write the export and say where it is; with --push-to-hub what the hub would refuse is refused before."""
    from spin.tools.export.formats import export_checkpoint

    if options.push_to_hub is None and (options.public or options.license):
        raise ModelError(
            "--public and --license need --push-to-hub NAME, got none; add it, or leave them out."
        )
    target = None
    if options.push_to_hub is not None:
        from spin.tools.export.hub import check_hub, push

        target = check_hub(options.push_to_hub, options.public, options.license, options.checkpoint)
    out = export_checkpoint(options.checkpoint, options.format, options.out, options.dtype, options.force)
    print(f"{options.out} holds {options.checkpoint} as {options.format}, weights in {options.dtype}.")
    if target is not None:
        address = push(target, out, options.checkpoint)
        print(f"It is at {address}, {'for everybody' if target.public else 'for you alone'}.")
