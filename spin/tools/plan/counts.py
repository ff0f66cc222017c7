"""What a plan has to find out: the base's configurations and how many training images there are."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spin import paths
from spin.errors import DataError, ModelError
from spin.models.flops import T5_TOKENS
from spin.params.buckets import LEAST_AREA_PERCENT
from spin.params.schema import Params
from spin.runtime.files import read_json, read_parquet
from spin.runtime.tables import Table
from spin.tools.plan.published import CONFIGS, PAIRS_PER_PROMPT

PAIRS = paths.DATA / "pairs.parquet"


def configurations(params: Params) -> tuple[dict[str, Any], dict[str, Any], int | None]:
    """(denoiser, autoencoder) configurations of the base: from its folder, else the published ones, else the hub.

    The third is the number of a caption's tokens, None for that of the published bases.
    """
    from spin.models.find import embedded_base
    from spin.params.model import EMBEDDED

    source = params.base.config or params.base.source
    folder = embedded_base(source) if source in EMBEDDED else Path(source)
    if folder.is_dir():
        parts = [part for part in ("unet", "transformer") if (folder / part / "config.json").is_file()]
        if not parts or not (folder / "vae" / "config.json").is_file():
            raise ModelError(
                f"{source} must be a model in diffusers layout, but it has no denoiser or vae config."
            )
        return (
            read_json(folder / parts[0] / "config.json"),
            read_json(folder / "vae" / "config.json"),
            _tokens(folder, parts[0]),
        )
    if source in CONFIGS:
        return *CONFIGS[source], None
    return *_from_hub(source, params.base.revision), None


def _tokens(folder: Path, part: str) -> int | None:
    """Of a caption: what the tokenizer pads to; SD3's transformer is told T5's too."""
    tokenizer = folder / "tokenizer" / "tokenizer_config.json"
    length = read_json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    return None if length is None else int(length) + (T5_TOKENS if part == "transformer" else 0)


def _from_hub(source: str, revision: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def read(part: str) -> dict[str, Any]:
        config: dict[str, Any] = read_json(
            Path(hf_hub_download(source, f"{part}/config.json", revision=revision))
        )
        return config

    try:
        try:
            return read("unet"), read("vae")
        except EntryNotFoundError:
            return read("transformer"), read("vae")
    except Exception as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the configuration of {source} must be at hand for a plan, but it is neither here, nor published with "
            f"this package, nor to be had from the hub ({cause}); check the name and the network."
        ) from None


def count_images(params: Params, given: int | None) -> int:
    """Training images: as given, of the embedded world, of this source's finished data stage, or of a folder.

    Raises `DataError` for a data set that has to be counted elsewhere.
    """
    if given is not None:
        return given
    if params.data.kind == "none":
        return 0
    if params.data.kind == "toy":
        return params.data.num_train
    if card := _card_of(params):
        return int(card["kept"]["train"])
    if folder := folder_not_read(params):
        from spin.data.folder import IMAGE_SUFFIXES

        found = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))
        return max(found - params.data.num_val - params.data.num_test, 1)
    raise DataError(
        "the number of training images must be known for a plan, but the data stage has not run; "
        "give it with --images (Pick-a-Pic v2 has 58960 training prompts)."
    )


def folder_not_read(params: Params) -> Path | None:
    """The folder whose data stage has not run, so that its files are counted, though some may be of no use; else None."""
    if params.data.kind != "folder" or _card_of(params) or not Path(params.data.path).is_dir():
        return None
    return Path(params.data.path)


def notes_on(params: Params, given: int | None) -> list[str]:
    """What the reader of a plan must know of its images, `given` or counted: sentences."""
    notes = []
    if given is None and folder_not_read(params):
        notes.append(
            "Images are counted by the names of their files until the stage data has run, also those that it will drop: "
            "`spin init` says how many."
        )
    if getattr(params.data, "aspect_buckets", None) is not None:
        notes.append(
            f"Every image counts as a square: the buckets' areas are {LEAST_AREA_PERCENT} to 100% of its."
        )
    return notes


def count_rows(params: Params, images: int) -> int:
    """Rows that an epoch of self-play has of `images` training images with an opponent each: more with `data.repeats`.

    How often an image is shown is counted in this source's finished data stage, else in its folder. Raises `DataError` for
    a numbered folder whose number is no count.
    """
    from spin.data.folder import images_below, repeats_in
    from spin.data.manifest import read_manifest, repeats_of

    if params.data.kind != "folder" or not params.data.repeats:
        return images
    listed = repeats_of(read_manifest(paths.DATA)) if _card_of(params) else None
    if listed is None:
        found = map(repeats_in, map(str, images_below(Path(params.data.path))))
        listed = np.array([shown.times if shown else 1 for shown in found], np.int32)
    return round(images * float(listed.mean())) if len(listed) else images


def count_pairs(params: Params, images: int, given: int | None) -> int:
    """Preference pairs: as given, of the embedded world, of this source's finished data stage, else Pick-a-Pic v2's own
    number a prompt for `images` prompts.
    """
    data = params.data
    if not (data.kind == "toy" or (data.kind == "pickapic" and data.pairs)):
        return 0
    if given is not None:
        return given
    if data.kind == "toy":
        return data.num_train
    return len(Table(PAIRS)) if _pairs_here(params) else round(images * PAIRS_PER_PROMPT)


def count_pair_images(params: Params, images: int, given: int | None) -> int:
    """Winners and losers of Diffusion-DPO's pairs: of this source's finished data stage each once, else two a pair.

    `given` are pairs given by hand; without, they are counted as `count_pairs` does.
    """
    pairs = count_pairs(params, images, given)
    if pairs and given is None and _pairs_here(params):
        listed = read_parquet(PAIRS, columns=["image_w", "image_l"])
        return len({*listed["image_w"], *listed["image_l"]})
    return 2 * pairs


def _pairs_here(params: Params) -> bool:
    return params.data.kind == "pickapic" and bool(_card_of(params)) and PAIRS.is_file()


def _card_of(params: Params) -> dict[str, Any]:
    """The card of this data set's finished data stage; empty if it has not run, or for another one."""
    path = paths.DATA / "card.json"
    card: dict[str, Any] = read_json(path) if path.is_file() else {}
    same = card.get("source") == getattr(params.data, "path", getattr(params.data, "source", None))
    return card if same else {}


def count_prompts(params: Params) -> dict[str, int]:
    """Prompts of each prompt set that is evaluated or that a comparison draws; a file of prompts is read."""
    drawn = [*params.evaluate.prompt_sets, *(chosen.prompts for chosen in params.continual.values())]
    return {name: _prompts_in(params, params.prompt_sets[name].prompts) for name in dict.fromkeys(drawn)}


def _prompts_in(params: Params, prompts: str) -> int:
    from spin.prompts.named import NAMED
    from spin.prompts.sets import load_prompt_set

    if prompts in ("val", "test") and params.data.kind != "none":
        held_out = params.data.num_val if prompts == "val" else params.data.num_test
        if not held_out and (card := _card_of(params)):  # the prompts are training captions
            return int(card["kept"][prompts])
        return max(held_out, 1)
    return sum(NAMED[prompts].counts.values()) if prompts in NAMED else len(load_prompt_set(prompts))


def count_adapters(network: nn.Module, rank: int, targets: list[str]) -> int:
    """Parameters of LoRA adapters of this rank on the linear layers whose names end in one of `targets`."""
    return sum(
        rank * (layer.in_features + layer.out_features)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and any(name == end or name.endswith(f".{end}") for end in targets)
    )
