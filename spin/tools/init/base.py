"""The base that `spin init` was given: found and checked as far as that needs no network."""

from pathlib import Path
from typing import Any, NamedTuple

from spin.errors import ModelError, ParamsError
from spin.params.model import EMBEDDED
from spin.runtime.hub import is_hub_id


class ChosenBase(NamedTuple):
    """A base for params.yaml."""

    section: dict[str, Any]
    said: str
    """What was found out about it, or nothing."""


def choose_base(source: str, config: str | None) -> ChosenBase:
    """Return the section `base` for a folder, a hub id or a single file, whose configuration is `config` or inferred.

    Raises `SpinError` for what cannot be a base, and for one that is here and does not fit together.
    """
    single = source.endswith(".safetensors") and not Path(source).is_dir()
    if config is not None and not single:
        raise ParamsError(
            f"--config must go with a --base that is one .safetensors file, got {config} with {source}; leave it out."
        )
    if not single and not _can_be(source):
        raise ModelError(
            "--base must be 'embedded', a folder in diffusers layout, a .safetensors file or a hub id owner/name, but there "
            f"is no such folder or file {source}; correct the path."
        )
    said = ""
    if single:
        from spin.models.find import find_single_file
        from spin.models.inferred import config_of
        from spin.models.whole import check_whole

        if file := find_single_file(source, None):
            check_whole([file])
        if config is None:
            config = config_of(Path(source), "--config")
            said = f"{source}: by its keys its configuration is that of {config}; another one is named by --config"
        elif not _can_be(config):
            raise ModelError(
                f"--config must be a folder in diffusers layout or a hub id owner/name, but there is no folder {config}; "
                "correct the path."
            )
    section = {"source": source, "revision": None, "config": config, "unet": None}
    configured = source if config is None else config
    if configured in EMBEDDED or Path(configured).is_dir():
        from spin.models.bases import find_base

        find_base(section)
    return ChosenBase(section, said)


def _can_be(source: str) -> bool:
    """Whether this is a base of the package's, a folder, or a hub id and no file of the user's."""
    return source in EMBEDDED or Path(source).is_dir() or (is_hub_id(source) and not Path(source).exists())
