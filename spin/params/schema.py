"""All of params.yaml, read and checked.

Types are strict, because PyYAML reads `1e-5` as text. `load_params` turns any breach into one sentence:
the dotted name, the rule, the value that came and what to do.
"""

from pathlib import Path

from pydantic import ValidationError, model_validator

from spin.errors import ParamsError
from spin.params.checks import check_continual, check_names, check_prev, check_sections
from spin.params.messages import describe
from spin.params.reading import read_yaml
from spin.params.sections import ParamSections


class Params(ParamSections):
    """All of params.yaml, its sections in agreement with each other."""

    @model_validator(mode="after")
    def _names_agree(self) -> "Params":
        check_prev(self)
        check_names(self)
        check_sections(self)
        check_continual(self)
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a parameter file; raises `ParamsError` with one sentence on the first breach."""
    if not path.is_file():
        raise ParamsError(f"{path} must be a parameter file, found none; copy one of profiles/ to it.")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ParamsError(
            f"{path} must hold a mapping of parameters, got {type(raw).__name__}; see profiles/."
        )
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(f"{path}: {describe(error, Params)}") from None
