"""STAGES, dvc.yaml, the command line and tasks/ say the same."""

import importlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from spin.params.evaluation import EvaluateParams
from spin.params.sampling import RUN_ONLY, OpponentParams
from spin.params.schema import load_params
from spin.params.training import NOT_THE_METHOD, TrainingParams
from spin.runtime.code import code_of
from spin.sampling.samples import protocol_of
from spin.stages.stage import Item, Stage
from spin.stages.table import STAGES, stage_of

ROOT = Path(__file__).resolve().parents[2]
FILLED = {
    "${key}": "{name}",
    "${item.model}": "{name}",
    "${item.level}": "{name}",
    "${item.prompts}": "{prompts}",
    "${item.prev}": "{prev}",
    "${item.finished}": "{finished}",
    "${item.next}": "{next}",
    "${item}": "{prompts}",
}
"""dvc.yaml's templates in the words of STAGES."""
ASSETS = "spin/toy/assets/"


def pipeline() -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    return {name: given.get("do", given) for name, given in stages.items()}


def paths(given: list[Any]) -> set[str]:
    """Entries of `deps` or `outs`, templates filled in; plots are told with their axes."""
    texts = {next(iter(each)) if isinstance(each, dict) else each for each in given}
    for template, words in FILLED.items():
        texts = {text.replace(template, words) for text in texts}
    return texts


declared = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def test_dvc_has_the_stages_of_the_table() -> None:
    assert list(pipeline()) == [name for name in pipeline() if name in STAGES]
    assert pipeline().keys() == STAGES.keys()


@declared
def test_dvc_runs_the_stages_own_command(stage: Stage) -> None:
    command = pipeline()[stage.name]["cmd"].split()
    assert command[:4] == ["python", "-m", "spin", stage.command]
    assert {option.removeprefix("--") for option in command[4::2]} == set(stage.takes)
    assert paths(command[5::2]) == {f"{{{name}}}" for name in stage.takes}


@declared
def test_dvc_runs_a_stage_for_the_items_of_the_table(stage: Stage) -> None:
    given = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"][stage.name]
    listed = given.get("matrix") or {"foreach": given.get("foreach", "")}
    over = {stage.over or ("evaluate.prompt_sets" if stage.takes else "")}
    if "matrix" in given:
        over |= {"evaluate.prompt_sets"}
    assert {each.strip("${}") for each in listed.values()} == over


@declared
def test_a_stage_depends_on_its_code_and_on_what_it_reads_and_on_nothing_else(stage: Stage) -> None:
    given = pipeline()[stage.name]
    deps = {dep for dep in paths(given["deps"]) if not dep.startswith(ASSETS)}
    if stage.name == "code":
        assert deps == {"spin"}
    else:
        assert deps == {f"outputs/code/{stage.name}.json", *stage.reads}
    assert paths([*given["outs"], *given.get("metrics", [])]) == set(stage.makes)


def test_another_number_of_images_of_a_prompt_set_draws_anew_and_fetches_no_prompts() -> None:
    listed = {name: str(stage.get("params", "")) for name, stage in pipeline().items()}
    own = [name for name, text in listed.items() if "prompt_sets.${" in text and ".images_per_prompt" in text]
    assert own == ["generate", "continual"]
    assert "'prompt_sets'" in listed["tables"], "which set chooses the champion"
    assert "'prompt_sets'" in listed["register"]
    assert "images_per_prompt" not in listed["reference"], "a level has one image a prompt"


def listed_params(stage: str) -> set[str]:
    """The parameters that dvc.yaml lists for a stage, by their dotted names."""
    given = pipeline()[stage].get("params", [])
    return {name for each in given for name in ([each] if isinstance(each, str) else each["params.yaml"])}


TRAINING = {f"training.{name}" for name in TrainingParams.model_fields.keys() - NOT_THE_METHOD}
SHARD_SIZE = "shard_size"
"""Of opponents: part of the key of unfinished work, since it is kept by shards; the images do not depend on it."""
OPPONENTS = {f"opponents.{name}" for name in OpponentParams.model_fields.keys() - RUN_ONLY - {SHARD_SIZE}}
ONE_IMAGE = "evaluate.images_per_prompt"


def test_a_stage_lists_every_leaf_that_its_work_depends_on_and_no_other(tmp_path: Path) -> None:
    """Of training, opponents, evaluate and cache, as the keys of unfinished work and the protocols have them."""
    prompts = tmp_path / "test.parquet"
    pd.DataFrame({"prompt": ["a red square"]}).to_parquet(prompts)
    evaluate = load_params(ROOT / "profiles" / "toy.yaml").evaluate
    stated = protocol_of(evaluate, prompts, 32).keys() & EvaluateParams.model_fields.keys()
    protocol = {f"evaluate.{name}" for name in stated}
    wanted = {
        "cache": {"training.horizontal_flip", "training.tags"},
        "opponents": OPPONENTS | {"training.horizontal_flip"},
        "train": TRAINING,
        "baseline": TRAINING,
        "generate": protocol,
        "reference": protocol - {ONE_IMAGE},
        "continual": TRAINING | protocol | {"evaluate.reduction"},
    }
    sections = ("training.", "opponents.", "evaluate.", "cache.")
    for stage, leaves in wanted.items():
        assert {name for name in listed_params(stage) if name.startswith(sections)} == leaves, stage


def test_mlflow_is_told_the_protocol_of_the_prompt_set() -> None:
    params = load_params(ROOT / "profiles" / "toy.yaml")
    shown = {name: STAGES["generate"].settings(params, Item("iter1", name)) for name in ("test", "val")}
    assert {name: each["evaluate"]["images_per_prompt"] for name, each in shown.items()} == {
        "test": 1,
        "val": 2,
    }


@declared
def test_a_stage_that_reaches_the_scorers_depends_on_the_embedded_ones(stage: Stage) -> None:
    reaches = "spin.rewards.weights" in code_of(stage.run)
    assert reaches == (f"{ASSETS}scorers" in pipeline()[stage.name]["deps"])


@declared
def test_a_stage_is_run_by_a_task_of_the_same_place(stage: Stage) -> None:
    import flows.environment  # noqa: F401  (switches before Prefect)

    room, name = stage.module.rsplit(".", 1)
    assert room == "spin.stages"
    task = importlib.import_module("tasks.stage")
    module = importlib.import_module(f"tasks.{name}")
    assert task.TASKS[stage.name] in vars(module).values()


@declared
def test_what_a_stage_names_is_there(stage: Stage) -> None:
    assert callable(stage.function())
    if stage.tells:
        from spin.tracking import stage_log

        assert callable(getattr(stage_log, stage.tells))


def test_training_commands_tell_iterations_from_baselines_and_fill_in_their_start() -> None:
    params = load_params(ROOT / "profiles" / "toy.yaml")
    iteration, baseline = Item("iter2"), Item("sft")
    assert stage_of("train", params, iteration) is STAGES["train"]
    assert stage_of("train", params, baseline) is STAGES["baseline"]
    read = STAGES["train"].files(STAGES["train"].reads, params, iteration)
    assert Path("outputs/opponents/iter2") in read
    assert Path("outputs/checkpoints/iter1") in read
    assert STAGES["baseline"].settings(params, baseline)["learning_rate"] == 1e-4


def test_the_page_waits_for_a_comparison_and_the_registry_does_not() -> None:
    (made,) = STAGES["continual"].makes
    waits = {
        name: any(made.startswith(f"{read}/") for read in STAGES[name].reads)
        for name in ("report", "register")
    }
    assert waits == {"report": True, "register": False}
