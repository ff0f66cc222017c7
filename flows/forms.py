"""What a person asks of a deployment: the fields of its form, each with what it means.

Models, not single parameters: of `Annotated[..., Field(description=...)]` Prefect keeps no description for the form.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def _own_fields_first(schema: dict[str, Any], form: type[BaseModel]) -> None:
    """Show what a deployment is about above what all of them have; pydantic has it the other way round."""
    classes = [each for each in form.__mro__ if issubclass(each, BaseModel)]
    order = [name for each in classes for name in vars(each).get("__annotations__", {})]
    schema["properties"] = dict(sorted(schema["properties"].items(), key=lambda field: order.index(field[0])))


class Running(BaseModel):
    """How stages are run, whatever they are."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_own_fields_first)

    pull: bool = Field(
        default=False,
        description="Before a stage runs, look on DVC's remote for the result of the same work: what another machine "
        "pushed is fetched, not made again.",
    )
    push: bool = Field(
        default=False,
        description="Send what each stage made to DVC's remote as soon as it is done, and at the end all of it.",
    )
    max_workers: int = Field(default=2, ge=1, description="Stages that may run at once. With one GPU: 1.")
    stage_timeout: float | None = Field(
        default=None, gt=0, description="Most seconds that one stage may run; no limit when empty."
    )


class Isolated(Running):
    """Parameters other than those of params.yaml, for a run in a folder of its own."""

    profile: str | None = Field(
        default=None,
        description="A file of profiles/ without its ending, such as toy or sd15-lora, in place of params.yaml. The run is "
        "isolated: it has a folder of its own below .spin/runs, and the project's params.yaml and outputs stay as they are.",
    )
    overrides: dict[str, Any] = Field(
        default={},
        description="Parameters to change, by their dotted names; the run is isolated. What they leave unchanged comes from "
        "DVC's cache, and the same overrides go on in the same folder.",
        examples=[{"training.batch_size": 64, "iterations.iter1.learning_rate": 1.0e-5}],
    )


class SelfPlay(Isolated):
    """Play SPIN: iterations, baselines, images, scores, tables and report, as far as they are out of date."""

    targets: list[str] = Field(
        default=[],
        description="Stages to bring up to date with all that they wait for, by the names that `dvc stage list` shows, or "
        "groups of them such as train. All stages when empty; of an isolated run all but register.",
        examples=[["train@iter1", "tables"]],
    )
    up_to: str | None = Field(
        default=None,
        description="An iteration, such as iter2: train up to it, and score its images and those of the base and the "
        "iterations before it. Together with targets: both.",
    )


class Evaluate(Isolated):
    """Compare a finished checkpoint with the base on prompt sets: images, scores, tables. Nothing is trained."""

    checkpoint: str = Field(
        description="A folder or a hub id owner/name that holds a denoiser at its root or in unet/ or transformer/, such as "
        "outputs/checkpoints/iter2 or UCLA-AGI/SPIN-Diffusion-iter1. It must be of the family of the base."
    )
    revision: str | None = Field(
        default=None, description="Commit of the hub repository; the newest when empty. Of a folder: empty."
    )
    prompt_sets: list[str] = Field(
        default=[],
        description="Names of prompt_sets in the parameters; those of evaluate.prompt_sets when empty.",
    )
    over: list[str] = Field(
        default=[],
        description="More checkpoints, folders or hub ids, to compute winning rates over beside the base.",
    )


class Promote(BaseModel):
    """Let a registered model meet the champion of the registry, on the same prompts and seeds."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        default=None,
        description="Which iteration of the run, such as iter2; the best of the run, head to head, when empty. It is promoted "
        "if its winning rate over the champion is above one half with its whole interval and its alignment has not fallen.",
    )
    rollback: bool = Field(
        default=False,
        description="Undo the last promotion instead: the champion before it gets its place back.",
    )
