"""What can be known to be wrong before any work starts, without loading a model."""

from itertools import islice
from pathlib import Path

from spin.errors import DataError, ModelError
from spin.params import Params


def check(params: Params, root: Path = Path()) -> None:
    """Raise `ModelError` or `DataError` if the base folder or the folder of images cannot be what they should be.

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
