"""`spin caption`: a model captions the images of a folder that have no caption, for a person to correct."""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spin.errors import ModelError, ParamsError

if TYPE_CHECKING:
    from PIL import Image

    from spin.tools.caption.written import Captions

    Captioner = Callable[[Sequence[Image.Image]], list[str]]
    """RGB images -> what the model says of each; an empty text where it says nothing."""

WAYS = ("txt", "csv")
NAMED = 10
"""Files without a caption that are named."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the subcommand."""
    command = commands.add_parser("caption", help="Caption the images of a folder that have no caption.")
    command.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="a folder of images")
    command.add_argument(
        "--model",
        required=True,
        help="a BLIP or Florence-2 model that captions, a folder or hub id; with --endpoint the name it has there",
    )
    command.add_argument("--revision", help="commit of the hub repository")
    command.add_argument(
        "--endpoint",
        metavar="URL",
        help="a server that speaks OpenAI's API, such as http://localhost:8000/v1; SPIN_CAPTION_KEY holds its key",
    )
    command.add_argument(
        "--prompt",
        help="the instruction to the server's model, one of Florence-2's tasks, or how BLIP's captions begin",
    )
    command.add_argument("--write", choices=WAYS, help="default: csv where there is a metadata.csv, else txt")
    command.add_argument("--replace", action="store_true", help="caption images anew that have a caption")
    command.add_argument("--max-tokens", type=int, default=128, help="of a caption (default: 128)")
    command.add_argument(
        "--batch-size", type=int, default=8, help="images or requests at a time (default: 8)"
    )
    command.add_argument("--device", help="cpu, cuda, ...; by default the accelerator if there is one")
    command.set_defaults(run=run_caption)


def run_caption(options: argparse.Namespace) -> None:
    """Caption what has no caption and say what came of it; what is written stays if the command is ended.

    Raises `ParamsError` for options that do not fit, `DataError` for a folder that cannot be captioned, and `ModelError` for
    a model that does not load, a server that does not answer, or either if it gives no captions.
    """
    from spin.runtime.progress import Progress
    from spin.tools.caption.written import open_captions

    # Refuse what does not fit, find what there is to do, then load what does it.
    _check(options)
    captions = open_captions(options.images, options.write, options.replace)
    if not captions.missing:
        print(f"{options.images}: all {captions.num_images} images have a caption; --replace makes them anew")
        return
    captioner = _captioner(options)

    had = captions.num_images - len(captions.missing)
    try:
        with Progress("captions", captions.num_images, "images", had) as progress:
            failed = _caption(captions, captioner, options.batch_size, progress.update)
    finally:
        captions.save()
    print("\n".join(_told(options.images, captions, failed)))


def _check(options: argparse.Namespace) -> None:
    for name in ("batch_size", "max_tokens"):
        if getattr(options, name) < 1:
            given = f"--{name.replace('_', '-')}"
            raise ParamsError(f"{given} must be at least 1, got {getattr(options, name)}; correct it.")
    if options.endpoint is not None and (options.revision or options.device):
        raise ParamsError(
            "--revision and --device must be left out with --endpoint, whose server loads the model; remove them."
        )


def _captioner(options: argparse.Namespace) -> "Captioner":
    if options.endpoint is not None:
        from spin.tools.caption.endpoint import EndpointCaptioner

        return EndpointCaptioner(
            options.endpoint, options.model, options.prompt, options.max_tokens, options.batch_size
        )
    from spin.tools.caption.local import LocalCaptioner

    return LocalCaptioner(options.model, options.revision, options.prompt, options.max_tokens, options.device)


def _caption(
    captions: "Captions", captioner: "Captioner", batch_size: int, count: Callable[[int], None]
) -> dict[Path, str]:
    """Caption the missing images batch by batch; return those that got none, and why."""
    from spin.data.images import read_image
    from spin.runtime.images import UnusableImageError, decode_rgb
    from spin.tools.caption.written import one_line

    failed: dict[Path, str] = {}
    for start in range(0, len(captions.missing), batch_size):
        batch, images = captions.missing[start : start + batch_size], {}
        for path in batch:
            try:
                images[path] = decode_rgb(io.BytesIO(read_image(captions.folder / path)))
            except UnusableImageError as error:
                failed[path] = error.reason
        said = captioner(list(images.values())) if images else []
        for path, text in zip(images, said, strict=True):
            if caption := one_line(text):
                captions.put(path, caption)
            else:
                failed[path] = "of which the model says nothing"
        if images and not captions.num_written:
            raise ModelError(
                f"--model must give captions, but the first {len(images)} images got none; look at what it says, or "
                "choose another."
            )
        count(len(batch))
    return failed


def _told(folder: Path, captions: "Captions", failed: dict[Path, str]) -> list[str]:
    lines = [
        f"{folder}: {captions.num_written} of {captions.num_images} images captioned, in {captions.where}, and "
        f"{captions.num_images - len(captions.missing)} had a caption; read and correct what the model wrote"
    ]
    if failed:
        named = ", ".join(f"{path} ({reason})" for path, reason in list(failed.items())[:NAMED])
        lines.append(f"{len(failed)} images have no caption: {named}{', ...' if len(failed) > NAMED else ''}")
    return [*lines, f"next: `python -m spin init --images {folder}`"]
