"""What can be known to be wrong before any work starts, without loading a model."""

from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path

from spin.errors import DataError, ModelError, ScoreError
from spin.params import Params
from spin.scorer_names import BUILT_IN, ENTRY_POINT_GROUP, ORACLES


def check(params: Params, root: Path = Path()) -> None:
    """Raise a `SpinError` if the base, a scorer or the folder of images cannot be what it should be.

    Relative paths are meant from `root`, the folder of params.yaml. A hub id is looked up by the stage `base`.
    """
    source = params.base.source
    if (
        source != "embedded"
        and not (root / source).is_dir()
        and (source.count("/") != 1 or source[0] in "./~")
    ):
        raise ModelError(
            "base.source must be 'embedded', a folder in diffusers layout or a hub id owner/name, "
            f"but there is no folder {source}; correct the path."
        )
    _check_scorers(params, root)
    if params.data.kind == "folder":
        folder = root / params.data.path
        if not folder.is_dir():
            raise DataError(
                f"data.path must be a folder of captioned images, but there is no folder {folder}; correct it."
            )
        if not any(islice(folder.rglob("*"), 1)):
            raise DataError(
                f"data.path must hold captioned images, but the folder {folder} is empty; fill it."
            )


def _check_scorers(params: Params, root: Path) -> None:
    known = [*BUILT_IN, *ORACLES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))]
    for name, scorer in params.scorers.items():
        if name not in known:
            raise ScoreError(f"scorers must name some of {', '.join(known)}, got {name}; correct the name.")
        if scorer.source not in ("embedded", "hub", "toy") and not (root / scorer.source).is_dir():
            raise ScoreError(
                f"scorers.{name}.source must be 'embedded', 'hub', 'toy' for an oracle, or a folder of weights, "
                f"but there is no folder {scorer.source}; correct it."
            )
