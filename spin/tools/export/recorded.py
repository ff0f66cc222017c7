"""What dvc.lock ties to a checkpoint: the data that it came from, and the tables and samples that came from it.

Numbers and pictures of another training of the same name are not this model's, so nothing is told where the hashes do not
lead from one to the other.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spin import paths
from spin.runtime.files import read_json
from spin.runtime.provenance import content_md5, made_from, recorded_md5s


@dataclass(frozen=True)
class Recorded:
    """Of one checkpoint."""

    data: dict[str, Any] = field(default_factory=dict)
    """The card of the data stage and `md5`, DVC's hash of what it made; empty where that is not known."""
    tables: tuple[Path, ...] = ()
    """Folders of outputs/tables, one for each prompt set."""
    samples: Path | None = None
    """The folder of a prompt set's samples in which both the base and this checkpoint drew."""


def recorded_of(checkpoint: Path, root: Path) -> Recorded:
    """Look through the dvc.lock of `root`; raises `FileError` if it is torn."""
    md5s = recorded_md5s(root)
    if not md5s:
        return Recorded()
    own = content_md5(checkpoint)
    place = next((path for path, md5 in md5s.items() if md5 == own), None)
    if place is None:
        return Recorded()

    # What it came from.
    data = (paths.DATA.as_posix(), md5s.get(paths.DATA.as_posix(), ""))
    card = root / paths.DATA / "card.json"
    known = data in made_from(root, place, own) and card.is_file()

    # What came from it.
    def after(folder: Path) -> list[Path]:
        below = [path for path in md5s if Path(path).is_relative_to(folder) and (root / path).is_dir()]
        return [root / path for path in below if (place, own) in made_from(root, path, md5s[path])]

    drawn = [path.parent for path in after(paths.SAMPLES) if path.name == Path(place).name]
    return Recorded(
        {**read_json(card), "md5": data[1]} if known else {},
        tuple(after(paths.TABLES)),
        next((folder for folder in drawn if (folder / "base" / "manifest.parquet").is_file()), None),
    )
