"""STAGES: every stage of the pipeline, declared once.

The command line makes a subcommand of each, `dvc.yaml` has each by the same name, the flow runs each by a task, and
MLflow is told what each read, made and was set to. Light to import: what a stage runs is named here, not imported.
"""

from pathlib import Path

from spin import paths
from spin.params.schema import Params
from spin.stages.stage import Item, Stage


def _output(place: Path, *item: str) -> str:
    return place.joinpath(*item).as_posix()


_DATA, _CACHE, _BASE = _output(paths.DATA), _output(paths.CACHE), _output(paths.CHECKPOINTS, "base")
_CHECKPOINT, _PREV = _output(paths.CHECKPOINTS, "{name}"), _output(paths.CHECKPOINTS, "{prev}")
_OPPONENTS, _CONTINUAL = _output(paths.OPPONENTS, "{name}"), _output(paths.CONTINUAL, "{name}")
_PROMPTS = _output(paths.PROMPTS, "{prompts}.parquet")
_SAMPLES, _SCORES = (_output(place, "{prompts}", "{name}") for place in (paths.SAMPLES, paths.SCORES))
_TABLES = _output(paths.TABLES, "{prompts}")

_ALL = (
    Stage(
        "code",
        "spin.stages.code:run_code",
        "Hash the code of each stage by its meaning, so that a comment makes nothing stale.",
        makes=(_output(paths.CODE),),
    ),
    Stage(
        "data",
        "spin.stages.data:run_data",
        "Bring the data source to a manifest with prompt sets.",
        makes=(_DATA,),
        logged=("data",),
        tells="tell_data",
    ),
    Stage(
        "base",
        "spin.stages.data:run_base",
        "Find the base model and record which weights it has.",
        makes=(_BASE,),
        logged=("base",),
    ),
    Stage(
        "released",
        "spin.stages.data:run_released",
        "Find a published checkpoint that is only evaluated.",
        takes=("name",),
        over="released",
        reads=(_BASE,),
        makes=(_CHECKPOINT,),
    ),
    Stage(
        "cache",
        "spin.stages.data:run_cache",
        "Encode images and captions once, for every iteration.",
        reads=(_DATA, _BASE),
        makes=(_CACHE,),
        gpu=True,
        shared=True,
    ),
    Stage(
        "opponents",
        "spin.stages.sample:run_opponents",
        "Let the previous iterate draw an opponent for every training caption.",
        takes=("name",),
        over="iterations",
        reads=(_DATA, _CACHE, _PREV),
        makes=(_OPPONENTS,),
        gpu=True,
        shared=True,
        logged=("opponents",),
        tells="tell_opponents",
    ),
    Stage(
        "train",
        "spin.stages.train:run_train",
        "Train one self-play iteration, or a baseline, against its frozen start.",
        takes=("name",),
        over="iterations",
        reads=(_DATA, _CACHE, _OPPONENTS, _PREV),
        makes=(_CHECKPOINT,),
        gpu=True,
        shared=True,
        logged=("training", "objective", "stage"),
        tells="tell_training",
    ),
    Stage(
        "baseline",
        "spin.stages.train:run_train",
        "Train a baseline, SFT or Diffusion-DPO, by the same trainer.",
        takes=("name",),
        over="baselines",
        reads=(_DATA, _CACHE, _PREV),
        makes=(_CHECKPOINT,),
        gpu=True,
        shared=True,
        logged=("training", "stage"),
        tells="tell_training",
    ),
    Stage(
        "prompt_set",
        "spin.stages.data:run_prompt_set",
        "Bring a prompt set to a table of prompts.",
        takes=("name",),
        over="prompt_sets",
        reads=(_output(paths.DATA, "prompts"),),
        makes=(_output(paths.PROMPTS, "{name}.parquet"),),
    ),
    Stage(
        "generate",
        "spin.stages.sample:run_generate",
        "Draw a model's images for a prompt set, from the same seeds as every model.",
        takes=("prompts", "name"),
        over="evaluate.models",
        reads=(_PROMPTS, _CHECKPOINT),
        makes=(_SAMPLES,),
        gpu=True,
        shared=True,
        logged=("evaluate",),
    ),
    Stage(
        "score",
        "spin.stages.score:run_score",
        "Score a model's images with every reward model.",
        takes=("prompts", "name"),
        over="evaluate.models",
        reads=(_SAMPLES,),
        makes=(_output(Path(_SCORES), "scores.parquet"), _output(Path(_SCORES), "summary.json")),
        gpu=True,
        shared=True,
        logged=("evaluate",),
        tells="tell_scores",
    ),
    Stage(
        "reference",
        "spin.stages.score:run_reference",
        "Render and score a level to read the tables against.",
        takes=("prompts", "name"),
        over="evaluate.references",
        reads=(_PROMPTS, _BASE),
        makes=(_SAMPLES, _SCORES),
        gpu=True,
        shared=True,
        logged=("evaluate",),
        tells="tell_scores",
    ),
    Stage(
        "tables",
        "spin.stages.report:run_tables",
        "Compare all models on a prompt set: means, medians, winning rates, intervals.",
        takes=("prompts",),
        reads=(_output(paths.SCORES, "{prompts}"),),
        makes=(_TABLES, _output(paths.METRICS, "{prompts}.json")),
        logged=("tables",),
        tells="tell_tables",
    ),
    Stage(
        "report",
        "spin.stages.report:run_report",
        "Draw the figures and the page.",
        reads=tuple(_output(place) for place in (paths.TABLES, paths.SAMPLES, paths.CHECKPOINTS)),
        makes=(_output(paths.REPORT),),
        tells="tell_report",
    ),
    Stage(
        "register",
        "spin.stages.registry:run_register",
        "List the iterations as model versions, with what each is and how it did.",
        reads=tuple(
            _output(place) for place in (paths.TABLES, paths.SCORES, paths.PROMPTS, paths.CHECKPOINTS)
        ),
        makes=(_output(paths.REGISTRY),),
        logged=("tables",),
        tells="tell_registry",
    ),
    Stage(
        "continual",
        "spin.stages.continual:run_continual",
        "Study: going on inside an iteration against moving to the next one.",
        takes=("name",),
        over="continual",
        reads=(
            _DATA,
            _CACHE,
            *(
                _output(place, each)
                for place in (paths.CHECKPOINTS, paths.OPPONENTS)
                for each in ("{finished}", "{next}")
            ),
            _PROMPTS,
        ),
        makes=(_CONTINUAL,),
        gpu=True,
        tells="tell_continual",
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}
"""By name in dvc.yaml."""


def stage_of(command: str, params: Params, item: Item) -> Stage:
    """The stage that a subcommand of `spin` runs for an item."""
    name = command.replace("-", "_")
    return STAGES["baseline" if name == "train" and item.name in params.baselines else name]
