"""`spin sample "a prompt" --model iter2`: look at what a model draws."""

import argparse
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from spin import paths
from spin.errors import ModelError, ParamsError
from spin.params.schema import Params, load_params
from spin.runtime.files import read_json, replacing_file

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from spin.params.evaluation import EvaluateParams

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

BEST = "best"
DRAWN = Path("drawn")
"""Where images go, in a folder named like the model."""
_LONGEST = 60
"""Bytes of a prompt in a file's name."""


def register(commands: "Commands") -> None:
    """Add the command."""
    command = commands.add_parser("sample", help="Draw images of your own prompts with a model.")
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help="in quotes, one or several")
    command.add_argument(
        "--model",
        default=BEST,
        help="best (the iteration that the report takes for the best), a model of params.yaml such as iter2, or a "
        "checkpoint's folder",
    )
    command.add_argument("--out", type=Path, help=f"folder for the images (default: {DRAWN}/MODEL)")
    command.add_argument("--count", type=int, default=4, help="images of each prompt")
    command.add_argument("--seed", type=int, default=0, help="another one draws others")
    command.add_argument("--params", type=Path, default=Path("params.yaml"), help="whose evaluate draws")
    command.set_defaults(run=run_sample)


def run_sample(options: argparse.Namespace) -> None:
    """Draw and say where the images are; raises `ParamsError` and `ModelError` before anything is written."""
    if options.count < 1:
        raise ParamsError(f"--count must be at least 1, got {options.count}; correct it.")
    if not all(prompt.strip() for prompt in options.prompts):
        raise ParamsError("a prompt must not be empty, got an empty one; write what is to be drawn.")
    if any("\ud800" <= sign <= "\udfff" for prompt in options.prompts for sign in prompt):
        raise ParamsError("a prompt must be UTF-8 text, got other bytes; write it anew.")
    params = load_params(options.params)
    checkpoint = find_checkpoint(options.model, params)
    out = options.out or DRAWN / checkpoint.resolve().name
    drawn = draw(checkpoint, options.prompts, options.count, options.seed, params, out)
    print(f"{out} holds {len(drawn)} images by {checkpoint}, the first is {drawn[0].name}")


def find_checkpoint(model: str, params: Params) -> Path:
    """The folder of a model: by its name, as the best one that the stage register found, or as a folder."""
    if model == BEST:
        listed = paths.REGISTRY / "registry.json"
        if not listed.is_file():
            raise ModelError(
                f"--model best must be known to the stage register, found no {listed}; run `dvc repro register`."
            )
        model = next(entry["model"] for entry in read_json(listed)["models"] if entry["champion"])
    known = ["base", *params.released, *params.baselines, *params.iterations]
    folder = paths.CHECKPOINTS / model if model in known else Path(model)
    if not (folder / "model.json").is_file():
        raise ModelError(
            f"--model must be best, one of {', '.join(known)}, or the folder of a checkpoint, but there is no "
            f"{folder / 'model.json'}; correct it, or run the stage that makes it."
        )
    return folder


class Drawer:
    """A model that is loaded to draw."""

    def __init__(self, checkpoint: Path, params: Params) -> None:
        """Load it; `evaluate` of `params` draws."""
        from spin.models.checkpoint import load_to_draw
        from spin.runtime.devices import default_device

        self.sampler, self.resolution = params.evaluate, params.resolution
        eager = params.evaluate.model_copy(update={"compile": False})  # a few images do not earn it back
        self._diffusion = load_to_draw(checkpoint, default_device(), eager)

    def draw(
        self, prompt: str, number: int, seed: int, sampler: "EvaluateParams | None" = None
    ) -> "NDArray[uint8]":
        """Draw image `number` of a prompt: uint8 of shape (height, width, 3).

        It depends on the prompt, the number and the seed, on nothing else that is drawn.
        """
        from spin.models.conditioning import square_geometry
        from spin.sampling.sampler import Guidance, sample_images
        from spin.seeding import generator_for

        encode = self._diffusion.encode_prompts
        guidance = Guidance(encode([prompt]), encode([""]), square_geometry(1, self.resolution))
        generators = [generator_for("sample", seed, prompt, number)]
        images, _ = sample_images(
            self._diffusion, guidance, generators, sampler or self.sampler, self.resolution
        )
        drawn: NDArray[uint8] = images[0].numpy()
        return drawn


def draw(
    checkpoint: Path, prompts: list[str], count: int, seed: int, params: Params, out: Path
) -> list[Path]:
    """Draw `count` images of each prompt and write them, each with what it is of as PNG text; return their files.

    A file is named by its prompt, seed and number, so that another prompt's image is never replaced.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from spin.runtime.progress import Progress

    drawer, files = Drawer(checkpoint, params), []
    with Progress("sample", len(prompts) * count, "images") as progress:
        for prompt in prompts:
            for index in range(count):
                files.append(out / f"{file_name(prompt)}-seed{seed}-{index}.png")
                about = PngInfo()
                for key, value in {"prompt": prompt, "model": checkpoint.name, "seed": str(seed)}.items():
                    about.add_itxt(key, value)
                with replacing_file(files[-1]) as temporary:
                    Image.fromarray(drawer.draw(prompt, index, seed)).save(temporary, pnginfo=about)
                progress.update()
    return files


def file_name(prompt: str) -> str:
    """`a-red-circle-5b8e2a`: its first words, and a few letters of its hash, since others may begin so."""
    words = (
        "-".join(re.findall(r"[^\W_]+", prompt.lower()))
        .encode()[:_LONGEST]
        .decode(errors="ignore")
        .strip("-")
    )
    return f"{words}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"
