"""What a parameter file needs of the hub, and whether it is here. Asks nobody unless told to; loads no model."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from spin import paths
from spin.errors import DataError, ModelError, ScoreError, SpinError
from spin.models.find import HUB_EXTRAS, denoiser_files, denoiser_here, pipeline_files, pipeline_here
from spin.params.model import EMBEDDED
from spin.params.schema import Params
from spin.runtime.files import read_json
from spin.runtime.hub import cached, first_line, is_hub_id, sizes_on_hub

DRAWING = frozenset({"cache", "opponents", "train", "baseline", "generate", "continual"})
JUDGING = frozenset({"score", "reference", "continual"})


@dataclass(frozen=True)
class Need:
    """Files of a repository of the hub that some stages read."""

    key: str
    """The parameter that names it."""
    source: str
    revision: str | None
    stages: frozenset[str]
    """Kinds of stages that read it."""
    patterns: tuple[str, ...]
    """Of its files, nearly: of a pipeline, whose parts only its index knows, some more."""
    required: tuple[str, ...]
    """Files that it must have."""
    find: Callable[[], Path | None]
    """Returns where it is, here; None where it is not, or not all of it."""
    error: type[SpinError] = ModelError
    kind: str = "model"

    def sizes(self) -> dict[str, int]:
        """Return the bytes of its files on the hub; raises the error of its kind with one sentence if it is not to be had."""
        without = HUB_EXTRAS if self.kind == "model" else ()
        try:
            sizes = sizes_on_hub(self.source, self.revision, self.patterns, without, self.kind)
        except Exception as error:  # the client raises a dozen kinds: offline, gated, missing
            raise self.refusal(first_line(error)) from None
        missing = [name for name in self.required if name not in sizes]
        if not sizes or missing:
            raise self.refusal(f"it has no {missing[0] if missing else self.patterns[0]}")
        return sizes

    def refusal(self, reason: str) -> SpinError:
        """Say that it is neither here nor to be had, and what to do."""
        at = "" if self.revision is None else f" at revision {self.revision}"
        return self.error(
            f"{self.key} must be a folder or a repository that the hub has, but {self.source}{at} is neither here nor to be "
            f"had ({reason}); check the name, the network and HF_TOKEN, or run `spin fetch` where there is a network."
        )


def needs_of(params: Params, root: Path = Path()) -> Iterator[Need]:
    """Yield what is read from the hub; folders and files are meant from `root`, the folder of params.yaml."""
    yield from _base(params, root)
    for name, released in params.released.items():
        if _is_on_hub(released.source, root):
            stages = frozenset({"released", "generate"})
            yield _denoiser(f"released.{name}.source", released.source, released.revision, stages)
    checker = params.opponents.safety_checker
    if checker is not None and params.iterations and _is_on_hub(checker, root):
        yield _checker(checker)
    yield from _scorers(params)
    yield from _prompts(params, root)
    data = params.data
    if (data.kind == "dataset" or data.kind == "pickapic") and _is_on_hub(data.source, root):
        yield Need(
            "data.source",
            data.source,
            data.revision,
            frozenset({"data"}),
            ("*",),
            (),
            lambda: _data_here(data.source, root),
            DataError,
            "dataset",
        )


def check_reachable(params: Params, stages: Collection[str], root: Path = Path()) -> None:
    """Raise a `SpinError` if something that these kinds of stages read is neither here nor to be had from the hub."""
    asked = set()
    for need in needs_of(params, root):
        if need.stages & set(stages) and (need.source, need.revision) not in asked and need.find() is None:
            need.sizes()
            asked.add((need.source, need.revision))


def _is_on_hub(source: str, root: Path) -> bool:
    return source not in EMBEDDED and is_hub_id(source) and not (root / source).exists()


def _base(params: Params, root: Path) -> Iterator[Need]:
    base, stages = params.base, DRAWING | {"base", "released"}
    key, source = ("base.source", base.source) if base.config is None else ("base.config", base.config)
    configs_only = base.config is not None
    if _is_on_hub(source, root):
        yield Need(
            key,
            source,
            base.revision,
            stages,
            ("model_index.json", *pipeline_files(["*"], configs_only)),
            ("model_index.json",),
            lambda: pipeline_here(source, base.revision, configs_only),
        )
    if base.unet is not None and _is_on_hub(base.unet.source, root):
        yield _denoiser("base.unet.source", base.unet.source, base.unet.revision, stages)


def _denoiser(key: str, source: str, revision: str | None, stages: frozenset[str]) -> Need:
    patterns = tuple({*denoiser_files("unet"), *denoiser_files("transformer")})
    return Need(key, source, revision, stages, patterns, (), lambda: denoiser_here(source, revision))


def _checker(source: str) -> Need:
    from spin.sampling.safety import HUB_FILES

    def find() -> Path | None:
        folder = cached(source, None, HUB_FILES)
        return folder if folder and any(folder.rglob("*.safetensors")) else None

    return Need(
        "opponents.safety_checker", source, None, frozenset({"opponents"}), tuple(HUB_FILES), (), find
    )


def _scorers(params: Params) -> Iterator[Need]:
    from spin.rewards.names import HUB

    for name, scorer in params.scorers.items():
        if scorer.source != "hub":
            continue
        for source in dict.fromkeys(repository for repository, _ in HUB.get(name, {}).values()):
            files = tuple(file for repository, file in HUB[name].values() if repository == source)
            key, find = f"scorers.{name}.source", _files(source, files)
            yield Need(key, source, None, JUDGING, files, files, find, ScoreError)


def _files(source: str, files: tuple[str, ...]) -> Callable[[], Path | None]:
    def find() -> Path | None:
        folder = cached(source, None, files)
        return folder if folder and all((folder / file).is_file() for file in files) else None

    return find


def _prompts(params: Params, root: Path) -> Iterator[Need]:
    chosen = {name: each for name, each in params.prompt_sets.items() if each.source is None}
    if all(each.prompts in ("val", "test") for each in chosen.values()):
        return
    from spin.prompts.named import REPOSITORIES

    for name, each in chosen.items():
        if each.prompts in REPOSITORIES:
            key, source = f"prompt_sets.{name}.prompts", REPOSITORIES[each.prompts]
            find = _file(root / paths.fetched_prompts(each.prompts))
            stages = frozenset({"prompt_set"})
            yield Need(key, source, None, stages, ("*",), (), find, DataError, "dataset")


def _file(path: Path) -> Callable[[], Path | None]:
    return lambda: path if path.is_file() else None


def _data_here(source: str, root: Path) -> Path | None:
    """The data set of this source, or the finished work of the stage that DVC is to record."""
    for place in (root / paths.DATA, *(root / paths.WORK / "work").glob("data-*/set")):
        card = place / "card.json"
        if card.is_file() and read_json(card).get("source") == source:
            return place
    return None
