"""The base model on disk: a folder or a single file with the configs it needs, perhaps under another denoiser."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin.errors import ModelError
from spin.models.digests import CONFIGS, configs_digest_of, weights_digest_of
from spin.models.families import (
    check_base,
    check_denoiser,
    check_single_file,
    family_of,
    parts_present,
    prediction_type_of,
)
from spin.models.find import Found, find_denoiser, find_pipeline, find_single_file, read_config
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.variants import variant_of
from spin.models.whole import check_whole, weights_read


@dataclass(frozen=True)
class Base:
    """A base that was found and whose configs fit together."""

    source: str
    family: type[LatentDiffusion]
    folder: Path
    """In diffusers layout; of a single file, where its configs and tokenizers are."""
    revision: str | None
    config: str | None
    """Where `folder` came from if the weights are a single file, else None."""
    file: Path | None
    overlay: Path | None
    """Folder of the denoiser laid over the base, or None."""
    overlay_reference: dict[str, Any] | None

    def denoiser_config(self) -> dict[str, Any]:
        """Config of the base's own denoiser, and how it predicts under `prediction_type`."""
        config = read_config(self.folder / self.family.denoiser_folder / "config.json", self.source)
        return {**config, "prediction_type": self.prediction_type()}

    def prediction_type(self) -> str:
        """`epsilon`, `v_prediction` or `flow`."""
        scheduler = read_config(self.folder / "scheduler" / "scheduler_config.json", self.source)
        return prediction_type_of(self.family, scheduler, self.source)

    def places(self) -> dict[str, Path]:
        """Where the weights are, by part; a single file counts as one part."""
        if self.file is not None:
            places = {"file": self.file}
        else:
            present = parts_present(self.family, self.folder, self.source)
            places = {part: self.folder / part for part in present}
        if self.overlay is not None:
            places[self.family.denoiser_folder] = self.overlay
        return places

    def variants(self) -> dict[str, str]:
        """The variants (see `variant_of`) of the parts that are read in one."""
        folders = {part: place for part, place in self.places().items() if place != self.file}
        found = {part: variant_of(folder, part, self.source) for part, folder in folders.items()}
        return {part: variant for part, variant in found.items() if variant is not None}

    def reference(self) -> dict[str, Any]:
        """What model.json says of the base."""
        reference: dict[str, Any] = {
            "source": self.source,
            "revision": self.revision,
            "family": self.family.family,
            "prediction_type": self.prediction_type(),
            "weights": {part: weights_digest_of(place) for part, place in self.places().items()},
            CONFIGS: self._configs_digest(),
        }
        if self.config is not None:
            reference["config"] = self.config
        if self.overlay_reference is not None:
            reference["unet"] = self.overlay_reference
        return reference

    def check_unchanged(self, recorded: Mapping[str, Any]) -> None:
        """Raise `ModelError` if the base is not what model.json recorded; a commit of the hub's cannot change."""
        places = self.places()
        for part, digest in recorded["weights"].items():
            if part not in places or (self._is_local(part) and weights_digest_of(places[part]) != digest):
                self._refuse(part)
        if recorded.get("prediction_type", self.prediction_type()) != self.prediction_type():
            self._refuse("scheduler")
        if self.revision is None and recorded.get(CONFIGS, here := self._configs_digest()) != here:
            self._refuse("configuration")

    def _configs_digest(self) -> str:
        parts = {"scheduler", *self.family.parts, *self.family.tokenizers}
        return configs_digest_of(self.folder, parts, self.overlay)

    def _is_local(self, part: str) -> bool:
        if self.overlay_reference is not None and part == self.family.denoiser_folder:
            return self.overlay_reference["revision"] is None
        return self.file is not None or self.revision is None

    def _refuse(self, part: str) -> None:
        raise ModelError(
            f"base.source must be what was recorded when the pipeline began, but the {part} of {self.source} changed "
            "since; put it back, or run `dvc repro -f base` to begin again from the new one."
        )


def find_base(given: Mapping[str, Any]) -> Base:
    """Find the base that params.yaml or a model.json names and check that it fits together.

    `given` has source and revision, and may have config and unet (source, revision). Raises `ModelError`.
    """
    # Where it is: a folder, the hub, or a single file with the configs it needs.
    source, revision, config = given["source"], given["revision"], given.get("config")
    file = find_single_file(source, None if config else revision)
    if file is not None:
        check_whole([file])
    if file is None:
        found = find_pipeline("base", source, revision)
        _check_weights(found.folder, source)
    elif config is None:
        raise ModelError(
            f"base.config must name a model in diffusers layout for the single file {source}, got null; "
            "name the folder or hub id whose configuration the file has."
        )
    else:
        found = find_pipeline("base.config", config, revision, configs_only=True)

    # Which family it is of, and that its parts fit together.
    family = family_of(found.folder, source if file is None else str(config))
    check_base(family, found.folder, source if file is None else str(config))
    base = Base(
        source, family, found.folder, found.revision, config if file is not None else None, file, None, None
    )
    if file is not None:
        check_single_file(family, file, str(config), base.denoiser_config())

    # Another denoiser laid over it.
    overlay = given.get("unet")
    if not overlay:
        return base
    laid = find_overlay("base.unet", overlay, base)
    reference = {"source": overlay["source"], "revision": laid.revision}
    return Base(source, family, base.folder, base.revision, base.config, file, laid.folder, reference)


def find_overlay(key: str, given: Mapping[str, Any], base: Base) -> Found:
    """Find a denoiser (source, revision) to lay over a base and check that it fits; `key` names its parameter."""
    part = base.family.denoiser_folder
    found = find_denoiser(key, given["source"], given["revision"], part)
    check_denoiser(base.family, found.folder, given["source"], base.denoiser_config())
    variant = variant_of(found.folder, part, f"{key}.source {given['source']}")
    check_whole(weights_read(found.folder, variant))
    return found


def _check_weights(folder: Path, source: str) -> None:
    family = family_of(folder, source)
    for part in parts_present(family, folder, source):
        check_whole(weights_read(folder / part, variant_of(folder / part, part, source)))
