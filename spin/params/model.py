"""Which weights training starts from, and which trained ones are only evaluated."""

from pathlib import PurePath

from pydantic import model_validator

from spin.params.section import Section, Text

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
EMBEDDED = {"embedded": "base", "embedded-early": "early"}
"""The base models that come with the package, and their folders: one that draws what a caption says, and the same
pretraining stopped early, which does not yet."""


class UnetParams(Section):
    """A repository that holds a denoiser only, as the released SPIN and Diffusion-DPO checkpoints are published."""

    source: Text
    """A hub id or a folder, with the denoiser at its root or in `unet/` (SD3: `transformer/`)."""
    revision: str | None
    """Commit of the hub repository; null for the newest, or for a folder."""


class BaseParams(Section):
    """The pretrained model theta_0."""

    source: Text
    """`embedded`, `embedded-early`, a folder in diffusers layout, a single .safetensors file, or a hub id such as
    `stable-diffusion-v1-5/stable-diffusion-v1-5`."""
    revision: str | None
    """Commit of the hub repository (of a single file: of its config's); null for the newest, or for a folder.
    What was resolved is recorded."""
    config: str | None
    """For a single file: the folder or hub id in diffusers layout whose configuration it has. Else null."""
    unet: UnetParams | None
    """A denoiser-only repository laid over the base, or null."""

    @model_validator(mode="after")
    def _config_is_a_single_files(self) -> "BaseParams":
        suffix = PurePath(self.source).suffix
        if suffix in _PICKLES:
            raise ValueError(
                f"source must be safetensors, got a {suffix} file, which can run code when it is read; "
                "convert it to safetensors"
            )
        single = suffix == ".safetensors"
        if single and self.config is None:
            raise ValueError(
                f"config must name a model in diffusers layout for the single file {self.source}, got null; "
                "name the folder or hub id whose configuration the file has"
            )
        if self.config is not None and not single:
            raise ValueError(
                f"config must be null unless source is a single .safetensors file, got {self.config} with "
                f"{self.source}; a folder or repository has its own"
            )
        if self.source in EMBEDDED and self.revision is not None:
            raise ValueError(
                f"revision must be null with source {self.source}, got {self.revision}; it comes with the package"
            )
        return self
