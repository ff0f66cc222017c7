"""The sections of params.yaml, each a class of its own beside this file."""

from typing import Annotated

from pydantic import Field

from spin.errors import ParamsError
from spin.params.continual import ContinualParams
from spin.params.data import CacheParams, DataParams
from spin.params.evaluation import EvaluateParams, PromptSetParams, ScorerParams, TableParams, TrackingParams
from spin.params.model import BaseParams, UnetParams
from spin.params.objective import ObjectiveParams
from spin.params.sampling import OpponentParams
from spin.params.section import Name, Resolution, Section
from spin.params.training import BaselineParams, DpoParams, IterationParams, SftParams, TrainingParams


class ParamSections(Section):
    """All of params.yaml, section by section; `Params` is it with the sections held against each other."""

    seed: int
    """Of the method: data order, noise, opponents. Another seed is another run of the same experiment."""
    resolution: Resolution
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

    def evaluate_on(self, prompt_set: str) -> EvaluateParams:
        """The protocol on a prompt set: `evaluate` with the set's own number of images per prompt, where it gives one."""
        own = self.prompt_sets[prompt_set].images_per_prompt
        return self.evaluate if own is None else self.evaluate.model_copy(update={"images_per_prompt": own})

    def stage(self, name: str) -> IterationParams | SftParams | DpoParams:
        """Return the training stage called `name`; raises `ParamsError` if there is none."""
        try:
            return self.iterations[name] if name in self.iterations else self.baselines[name]
        except KeyError:
            known = ", ".join([*self.iterations, *self.baselines])
            raise ParamsError(f"there is no training stage named {name}; params.yaml has {known}.") from None
