"""The parts every section of params.yaml is made of: strict, closed, constant."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
MAX_RESOLUTION = 16_384
"""Pixels of a side: beyond what any base draws, and what sizes of other shapes can still be counted for."""
Resolution = Annotated[int, Field(gt=0, le=MAX_RESOLUTION)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""Of learning: nothing has trained above 1, and what overflows would only be found hours later."""
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A part of params.yaml: unknown keys and wrong types are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
