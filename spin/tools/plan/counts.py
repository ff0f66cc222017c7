"""What a plan has to find out: the base's configurations and how many training images there are."""

from pathlib import Path
from typing import Any

from torch import nn

from spin import paths
from spin.errors import DataError, ModelError
from spin.params.schema import Params
from spin.runtime.files import read_json
from spin.tools.plan.published import CONFIGS


def configurations(params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """(denoiser, autoencoder) configurations of the base: from its folder, else the published ones, else the hub."""
    from spin.models.find import embedded_base

    source = params.base.config or params.base.source
    folder = embedded_base() if source == "embedded" else Path(source)
    if folder.is_dir():
        parts = [part for part in ("unet", "transformer") if (folder / part / "config.json").is_file()]
        if not parts or not (folder / "vae" / "config.json").is_file():
            raise ModelError(
                f"{source} must be a model in diffusers layout, but it has no denoiser or vae config."
            )
        return read_json(folder / parts[0] / "config.json"), read_json(folder / "vae" / "config.json")
    if source in CONFIGS:
        return CONFIGS[source]
    return _from_hub(source, params.base.revision)


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
    path = paths.DATA / "card.json"
    card = read_json(path) if path.is_file() else {}
    if card.get("source") == getattr(params.data, "path", getattr(params.data, "source", None)):
        return int(card["kept"]["train"])  # of this data set, not of another one that was brought in here
    if params.data.kind == "folder" and Path(params.data.path).is_dir():
        from spin.data.folder import IMAGE_SUFFIXES

        found = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in Path(params.data.path).rglob("*"))
        return max(found - params.data.num_val - params.data.num_test, 1)
    raise DataError(
        "the number of training images must be known for a plan, but the data stage has not run; "
        "give it with --images (Pick-a-Pic v2 has 58960 training prompts)."
    )


def count_evaluated(params: Params) -> int:
    """Images that each model draws for all prompt sets; a file of prompts is read."""
    return sum(
        _prompts_in(params, params.prompt_sets[name].prompts) * params.evaluate_on(name).images_per_prompt
        for name in params.evaluate.prompt_sets
    )


def _prompts_in(params: Params, prompts: str) -> int:
    from spin.prompts.named import NAMED
    from spin.prompts.sets import load_prompt_set

    if prompts in ("val", "test") and params.data.kind != "none":
        return params.data.num_val if prompts == "val" else params.data.num_test
    return sum(NAMED[prompts].counts.values()) if prompts in NAMED else len(load_prompt_set(prompts))


def count_adapters(network: nn.Module, rank: int, targets: list[str]) -> int:
    """Parameters of LoRA adapters of this rank on the linear layers whose names end in one of `targets`."""
    return sum(
        rank * (layer.in_features + layer.out_features)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and any(name == end or name.endswith(f".{end}") for end in targets)
    )
