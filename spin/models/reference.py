"""What model.json must hold for a checkpoint to be read: a base's reference, or a trained or released model's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from spin.errors import ModelError
from spin.models.digests import DENOISER
from spin.models.families import FAMILIES
from spin.params.section import Text
from spin.params.training import LoraParams
from spin.runtime.files import read_json

MODEL_FILE = "model.json"

_ABSENT: Any = None
"""Of a key that may be left out, but not be null."""


class _Entry(BaseModel):
    """Keys of strict types; further ones may be there."""

    model_config = ConfigDict(strict=True)


class _Repository(_Entry):
    source: Text
    revision: str | None


class _Base(_Repository):
    family: str
    weights: dict[str, str]
    prediction_type: str = _ABSENT
    configs_sha256: str = _ABSENT
    config: str | None = None
    unet: _Repository | None = None

    @field_validator("family")
    @classmethod
    def _is_known(cls, family: str) -> str:
        if family not in (known := [each.family for each in FAMILIES]):
            raise ValueError(f"it must be one of {', '.join(known)}")
        return family

    @field_validator("weights")
    @classmethod
    def _has_a_denoisers(cls, weights: dict[str, str]) -> dict[str, str]:
        if not {"unet", "transformer", "file"} & weights.keys():
            raise ValueError("it must have the digest of the denoiser or the file")
        return weights


class _Digest(_Entry):
    denoiser_sha256: str = _ABSENT
    unet_sha256: str = _ABSENT
    """Its name before 0.2."""

    @model_validator(mode="after")
    def _is_given(self) -> "_Digest":
        if not (self.denoiser_sha256 or self.unet_sha256):
            raise ValueError(f"it must have {DENOISER}")
        return self


class _Prev(_Digest):
    checkpoint: Text


class _Lora(LoraParams):
    model_config = ConfigDict(extra="ignore")
    sha256: str


class _Model(_Digest):
    name: Text
    base: _Base
    prev: _Prev = _ABSENT
    lora: _Lora = _ABSENT
    unet: _Repository = _ABSENT


def read_reference(checkpoint: Path) -> Mapping[str, Any]:
    """What model.json says; raises `ModelError` if it is missing or says something else."""
    path = checkpoint / MODEL_FILE
    if not path.is_file():
        raise ModelError(
            f"{checkpoint} must be a checkpoint, but it has no {MODEL_FILE}; run the stage that makes it."
        )
    return _checked(path, read_json(path))


def _checked(path: Path, value: Any) -> dict[str, Any]:
    schema = _Model if isinstance(value, dict) and "base" in value else _Base
    try:
        schema.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = f" at {'.'.join(map(str, first['loc']))}" if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ")
        raise ModelError(
            f"{path} must be what a stage wrote of a model, but it is not{where} ({reason}); make the checkpoint again."
        ) from None
    reference: dict[str, Any] = value
    return reference
