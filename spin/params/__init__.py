"""The schema of params.yaml. Every key is required and none has a default: the file is the only place that holds values.

Types are strict, because PyYAML reads `1e-5` as text. `load_params` turns any breach into one sentence:
the dotted name, the rule, the value that came and what to do.
"""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from spin.errors import ParamsError
from spin.params.breaches import describe
from spin.params.checks import check_chain, check_continual, check_names, check_sections
from spin.params.continual import ContinualParams
from spin.params.data import CacheParams, DataParams, DatasetData, FolderData, PickapicData, ToyData
from spin.params.evaluation import EvaluateParams, PromptSetParams, ScorerParams, TableParams, TrackingParams
from spin.params.model import BaseParams, UnetParams
from spin.params.objective import ObjectiveParams
from spin.params.sampling import OpponentParams, SamplerParams
from spin.params.section import Name, PositiveInt, Section
from spin.params.training import (
    BaselineParams,
    DpoParams,
    IterationParams,
    LoraParams,
    SftParams,
    StageParams,
    TrainingParams,
)

__all__ = [
    "BaseParams",
    "CacheParams",
    "ContinualParams",
    "DataParams",
    "DatasetData",
    "DpoParams",
    "EvaluateParams",
    "FolderData",
    "IterationParams",
    "LoraParams",
    "ObjectiveParams",
    "OpponentParams",
    "Params",
    "PickapicData",
    "PromptSetParams",
    "SamplerParams",
    "ScorerParams",
    "SftParams",
    "StageParams",
    "TableParams",
    "ToyData",
    "TrackingParams",
    "TrainingParams",
    "UnetParams",
    "load_params",
]


class Params(Section):
    """All of params.yaml."""

    seed: int
    """Of the method: data order, noise, opponents. Another seed is another run of the same experiment."""
    resolution: PositiveInt
    """Side of the square training and sampled images, in pixels."""
    base: BaseParams
    data: DataParams
    cache: CacheParams
    opponents: OpponentParams
    training: TrainingParams
    objective: ObjectiveParams
    iterations: dict[Name, IterationParams]
    baselines: dict[Name, BaselineParams]
    released: dict[Name, UnetParams]
    """Published checkpoints that are only evaluated, each a UNet over the base."""
    continual: dict[Name, ContinualParams]
    """Comparisons of going on inside an iteration with moving to the next one."""
    prompt_sets: Annotated[dict[Name, PromptSetParams], Field(min_length=1)]
    evaluate: EvaluateParams
    scorers: Annotated[dict[Name, ScorerParams], Field(min_length=1)]
    tables: TableParams
    tracking: TrackingParams

    @model_validator(mode="after")
    def _names_agree(self) -> "Params":
        check_chain(self)
        check_names(self)
        check_sections(self)
        check_continual(self)
        return self

    def stage(self, name: str) -> IterationParams | SftParams | DpoParams:
        """Return the training stage called `name`; raises `ParamsError` if there is none."""
        try:
            return self.iterations[name] if name in self.iterations else self.baselines[name]
        except KeyError:
            known = ", ".join([*self.iterations, *self.baselines])
            raise ParamsError(f"there is no training stage named {name}; params.yaml has {known}.") from None


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a parameter file; raises `ParamsError` with one sentence on the first breach."""
    if not path.is_file():
        raise ParamsError(f"{path} must be a parameter file, found none; copy one of profiles/ to it.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ParamsError(f"{path} must be YAML, but it does not parse: {detail}") from None
    if not isinstance(raw, dict):
        raise ParamsError(
            f"{path} must hold a mapping of parameters, got {type(raw).__name__}; see profiles/."
        )
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(f"{path}: {describe(error, Params)}") from None
