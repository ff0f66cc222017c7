"""What is said of a stage where it is declared, and what one run of it is of."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin import paths
from spin.params.schema import Params
from spin.runtime.files import read_json


@dataclass(frozen=True)
class Item:
    """What one run of a stage is of; what a stage has none of is empty."""

    name: str = ""
    """An iteration, a baseline, a model, a level, a prompt set or a comparison."""
    prompts: str = ""
    """A prompt set of `evaluate.prompt_sets`."""

    @property
    def label(self) -> str:
        """As dvc.yaml names it after the `@`: `test-iter1`, or empty."""
        return "-".join(part for part in (self.prompts, self.name) if part)


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    """In dvc.yaml, up to the `@`."""
    run: str
    """module:function; called with the parameters and what `takes` names."""
    help: str
    takes: tuple[str, ...] = ()
    """Of the item: "prompts", "name", in the order of the function's arguments."""
    over: str = ""
    """Which parameters list the names, such as `iterations` or `evaluate.models`."""
    reads: tuple[str, ...] = ()
    """Outputs of other stages, with {name}, {prompts}, {prev} and such to fill in; dvc.yaml has the same."""
    makes: tuple[str, ...] = ()
    gpu: bool = False
    """Whether it takes a GPU slot."""
    shared: bool = False
    """Whether several processes can share its work, one for each device."""
    logged: tuple[str, ...] = ()
    """Sections of the parameters that MLflow shows on its run; "stage" is the iteration's or baseline's own."""
    tells: str | None = None
    """Function of `spin.tracking.stage_log` that tells MLflow its curves, pictures and numbers."""

    @property
    def command(self) -> str:
        """Subcommand of `spin`; a baseline is trained by the command of the iterations."""
        return "train" if self.name == "baseline" else self.name.replace("_", "-")

    @property
    def module(self) -> str:
        """The module that runs it, such as `spin.stages.train`; its task is in `tasks.train`."""
        return self.run.partition(":")[0]

    def function(self) -> Callable[..., Any]:
        """Import what runs it."""
        module, _, name = self.run.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def items(self, params: Params) -> list[Item]:
        """All that it is run for."""
        listed: Any = params
        for part in self.over.split(".") if self.over else ():
            listed = getattr(listed, part)
        prompts = params.evaluate.prompt_sets if "prompts" in self.takes else [""]
        names = list(listed) if "name" in self.takes else [""]
        return [Item(name, prompt_set) for prompt_set in prompts for name in names]

    def label(self, item: Item) -> str:
        """As dvc.yaml names it for an item: `train@iter1`."""
        return f"{self.name}@{item.label}" if item.label else self.name

    def files(self, templates: tuple[str, ...], params: Params, item: Item) -> list[Path]:
        """`reads` or `makes` of one item, relative to the project's root."""
        fields = {"name": item.name, "prompts": item.prompts}
        if item.name in {**params.iterations, **params.baselines}:
            fields["prev"] = params.stage(item.name).prev
        if item.name in params.continual:
            fields |= params.continual[item.name].model_dump(include={"finished", "next", "prompts"})
        return [Path(each.format(**fields)) for each in templates]

    def settings(self, params: Params, item: Item) -> dict[str, Any]:
        """The parameters that matter to it, nested as in params.yaml; the stage's own stand at the top."""
        settings: dict[str, Any] = {"seed": params.seed, "resolution": params.resolution}
        for section in self.logged:
            if section == "stage":
                settings |= params.stage(item.name).model_dump()
            elif section == "evaluate" and item.prompts:
                settings[section] = params.evaluate_on(item.prompts).model_dump()
            else:
                settings[section] = getattr(params, section).model_dump()
        return settings

    def tell(self, run: Any, params: Params, item: Item) -> None:
        """Tell `run`, a `spin.tracking.notes.StageRun`, what the finished stage was set to, read, made and found."""
        from spin.tracking import stage_log
        from spin.tracking.configuration import flatten

        run.params(flatten(self.settings(params, item)))
        run.inputs(*self.files(self.reads, params, item))
        run.outputs(*self.files(self.makes, params, item))
        if (cost := paths.COST / f"{self.label(item)}.json").is_file():
            run.metric({f"cost.{key}": value for key, value in read_json(cost).items()})
        if self.tells:
            getattr(stage_log, self.tells)(run, params, item.name, item.prompts)
