"""How models are compared."""

from typing import Annotated, Literal

from pydantic import Field

from spin.params.sampling import SamplerParams
from spin.params.section import Fraction, PositiveInt, Section, Text


class EvaluateParams(SamplerParams):
    """The protocol: the same for every model, printed under every table."""

    models: Annotated[list[str], Field(min_length=1)]
    """base, every baseline and every iteration, in the order of the tables."""
    references: Annotated[list[Literal["clean"]], Field(max_length=1)]
    """Levels to read the tables against, no models. `clean`: the embedded world's perfect images through the VAE."""
    prompt_sets: Annotated[list[str], Field(min_length=1)]
    """Names of `prompt_sets`; the first one is what winning rates by iteration are of, and chooses the champion where none is held out."""
    images_per_prompt: PositiveInt
    """Of each model, on prompt sets that give no number of their own."""
    reduction: Literal["mean", "median", "best"]
    """How the images of one prompt become one number: best keeps the image with the highest average score."""
    seed: int
    """Same (prompt, seed) for every model."""

    @property
    def main_prompt_set(self) -> str:
        """The prompt set that decides."""
        return self.prompt_sets[0]


class PromptSetParams(Section):
    """A set of prompts to evaluate on."""

    prompts: Text
    """`val` or `test`, the captions that the data stage held out; the name of a published set, such as parti_prompts,
    hpsv2 or pickapic_test_unique; or a file of prompts."""
    source: str | None
    """Your own copy of a published set, a file or folder; null to fetch it from the hub."""
    images_per_prompt: PositiveInt | None
    """Of each model; null: `evaluate.images_per_prompt`. From 2 on, and with the scorer clip, diversity is measured."""


class ScorerParams(Section):
    """One reward model."""

    source: Text
    """`embedded`, `hub` (the published weights), a folder, or for an oracle `toy`."""


class TableParams(Section):
    """Statistics and how they are shown."""

    average_of: Annotated[list[str], Field(min_length=1)]
    """Scorers whose unweighted mean is the Average; and by whose winning rates the champion is chosen, head to head."""
    over: Annotated[list[str], Field(min_length=1)]
    """Models to compute winning rates over."""
    bootstrap_samples: PositiveInt
    confidence: Fraction
    grid_prompts: PositiveInt
    """Rows of the same-seed grid."""


class TrackingParams(Section):
    """Names under which MLflow keeps the runs; changing them reruns nothing."""

    experiment: Text
    registered_model: Annotated[str, Field(pattern=r"^[\w.-][\w. -]*$")]
    """Letters, digits, dots, dashes and spaces: MLflow takes / and : for versions and aliases."""
