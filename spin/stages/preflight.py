"""What can be known to be wrong before any work starts, without loading a model."""

import logging
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path

from spin import paths
from spin.errors import DataError, ModelError, ParamsError, ScoreError, SpinError
from spin.params.data import DatasetData, FolderData, PickapicData
from spin.params.model import EMBEDDED as EMBEDDED_BASES
from spin.params.model import BaseParams
from spin.params.schema import Params
from spin.rewards.names import BUILT_IN, EMBEDDED, ENTRY_POINT_GROUP, ORACLES
from spin.runtime.hub import is_hub_id
from spin.tracking.others import trackers_wanted

logger = logging.getLogger(__name__)


def check(params: Params, root: Path = Path()) -> None:
    """Raise a `SpinError` if the folder, a tracker, the base, a scorer, a filter, a prompt set or the images cannot be what they should be.

    Relative paths are meant from `root`, the folder of params.yaml. A hub id is looked up by `check_hub`. Once
    the data stage has run, the images it read may be gone or on another machine.
    """
    if refused := paths.unusable(root):
        raise ParamsError(refused)
    trackers_wanted()
    _check_base(params.base, root)
    _check_scorers(params, root)
    _check_safety_checker(params.opponents.safety_checker, root)
    _check_prompt_sets(params, root)
    _check_oracles(params, root)
    _check_data(params, root)
    _check_min_snr(params, root)


def check_hub(params: Params, stage: str) -> None:
    """Raise a `SpinError` if what a kind of stage reads of the hub is neither here nor to be had; downloads nothing.

    A stage that draws for the scorers asks for them too: images that nobody can judge are not drawn. The stage `base`, the
    first that asks the hub, only warns of them.
    """
    from spin.stages.needs import JUDGING, check_reachable

    check_reachable(params, {stage, *(JUDGING if stage == "generate" else ())})
    if stage == "base":
        try:
            check_reachable(params, {"generate", "opponents", *JUDGING})
        except SpinError as error:
            logger.warning("warning, for later stages: %s", error)


def _check_base(base: BaseParams, root: Path) -> None:
    """Paths exist; what looks like a hub id is left to the stage `base`."""
    sources = {"base.source": (base.source, "'embedded', a folder in diffusers layout, a .safetensors file")}
    if base.config is not None:
        sources["base.config"] = (base.config, "'embedded', a folder in diffusers layout")
    if base.unet is not None:
        sources["base.unet.source"] = (base.unet.source, "a folder")
    for key, (source, kinds) in sources.items():
        is_file = key == "base.source" and source.endswith(".safetensors") and (root / source).is_file()
        if (
            source not in EMBEDDED_BASES
            and not (root / source).is_dir()
            and not is_file
            and not is_hub_id(source)
        ):
            raise ModelError(
                f"{key} must be {kinds} or a hub id owner/name, but there is no folder or file {source}; correct the path."
            )


def _check_data(params: Params, root: Path) -> None:
    data = params.data
    if data.kind == "toy" or data.kind == "none":
        return
    if not (root / paths.DATA / "card.json").is_file():
        _check_source(data, root)
    if data.kind != "pickapic" or not data.pairs:
        for name, baseline in params.baselines.items():
            if baseline.objective == "dpo":
                raise DataError(
                    f"baselines.{name} must have preference pairs, but data.kind {data.kind} gives single images; "
                    "remove it, or use data.kind pickapic with pairs: true."
                )


def _check_min_snr(params: Params, root: Path) -> None:
    """Once the stage `base` has said what the base predicts."""
    asking = {
        name: gamma
        for name, plan in params.baselines.items()
        if plan.objective == "sft" and (gamma := plan.min_snr_gamma) is not None
    }
    base = root / paths.CHECKPOINTS / "base"
    if not asking or not (base / "model.json").is_file():
        return
    from spin.models.reference import read_reference  # late: it loads the models' code

    if read_reference(base).get("prediction_type") == "flow":
        name, gamma = next(iter(asking.items()))
        raise ParamsError(
            f"baselines.{name}.min_snr_gamma must be null with a flow-matching base, got {gamma}; its weights are those "
            "of epsilon and v."
        )


def _check_source(data: FolderData | DatasetData | PickapicData, root: Path) -> None:
    if isinstance(data, FolderData):
        folder = root / data.path
        if not folder.is_dir():
            raise DataError(
                f"data.path must be a folder of captioned images, but there is no folder {folder}; correct it."
            )
        if not any(islice(folder.rglob("*"), 1)):
            raise DataError(
                f"data.path must hold captioned images, but the folder {folder} is empty; fill it."
            )
    else:
        from spin.data.streams import local_files

        local_files(data.source, root)


def _check_safety_checker(source: str | None, root: Path) -> None:
    """A folder with weights; what looks like a hub id is looked up when opponents are drawn."""
    if source is None or (is_hub_id(source) and not (root / source).is_dir()):
        return
    if not any(
        any((root / source).glob(pattern)) for pattern in ("*.safetensors", "safety_checker/*.safetensors")
    ):
        raise ModelError(
            f"opponents.safety_checker must be a folder with safetensors, a hub id owner/name or null, but {source or 'it'} "
            "is none of these; correct the path."
        )


def _check_prompt_sets(params: Params, root: Path) -> None:
    """Held-out captions, a published set, or a file of prompts that reads."""
    for name, given in params.prompt_sets.items():
        if given.source is not None and not (root / given.source).exists():
            raise DataError(
                f"prompt_sets.{name}.source must be a file or folder, but there is no {given.source}; correct it."
            )
        if given.prompts in ("val", "test"):
            continue
        from spin.prompts.files import read_rows
        from spin.prompts.named import NAMED

        if given.prompts in NAMED:
            continue
        if not (root / given.prompts).is_file():
            raise DataError(
                f"prompt_sets.{name}.prompts must be val, test, one of {', '.join(NAMED)}, or a file of prompts, but there "
                f"is no file {given.prompts}; correct it."
            )
        read_rows(root / given.prompts)


def _check_oracles(params: Params, root: Path) -> None:
    """The oracles know the embedded world's captions only: any other is refused before it is drawn."""
    oracles = [name for name in params.scorers if name in ORACLES]
    if not oracles:
        return
    from spin.prompts.files import read_rows
    from spin.toy.world import parse_caption

    drawn = [*params.evaluate.prompt_sets, *(chosen.prompts for chosen in params.continual.values())]
    for name in dict.fromkeys(drawn):
        prompts = params.prompt_sets[name].prompts
        if prompts in ("val", "test"):
            known = params.data.kind == "toy"
        else:
            known = (root / prompts).is_file()
            try:
                for row in read_rows(root / prompts) if known else ():
                    parse_caption(row[0])
            except DataError:
                known = False
        if not known:
            raise ScoreError(
                f"scorers must be without {', '.join(oracles)} for the prompt set {name}, whose captions are not the embedded "
                "world's; remove these scorers, or do not evaluate on the set."
            )


WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


def _check_scorers(params: Params, root: Path) -> None:
    """Names that exist, each with a source of its kind; a user's own scorer knows its sources itself."""
    own = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    for name, scorer in params.scorers.items():
        if name in own:
            continue
        if name not in (*BUILT_IN, *ORACLES):
            known = ", ".join((*BUILT_IN, *ORACLES, *sorted(own)))
            raise ScoreError(f"scorers must name some of {known}, got {name}; correct the name.")
        if not _has_weights(name, scorer.source, root):
            wanted = (
                "toy"
                if name in ORACLES
                else "hub, embedded where the package has it, or a folder with weights"
            )
            raise ScoreError(f"scorers.{name}.source must be {wanted}, got {scorer.source}; correct it.")


def _has_weights(name: str, source: str, root: Path) -> bool:
    if name in ORACLES or source in ("hub", "toy"):
        return source == ("toy" if name in ORACLES else "hub")
    folder = EMBEDDED / name if source == "embedded" else root / source
    return folder.is_dir() and any(file.suffix in WEIGHTS for file in folder.iterdir())
