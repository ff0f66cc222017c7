"""The manifest every data source is brought to, and the card that says what was kept.

manifest.parquet      id, caption, image, sha256, width, height      one row per training image
pairs.parquet         id, caption, image_w, image_l                  preference pairs; absent where there are none
prompts/val.parquet   prompt_id, prompt, category                    captions held out for previews
prompts/test.parquet  prompt_id, prompt, category                    captions held out for evaluation
images/               PNG files, named by the manifest relative to the folder
card.json             rows read, kept and dropped, and why
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from PIL import Image

from spin.errors import DataError
from spin.files import sha256_file, write_json

MANIFEST_COLUMNS = ["id", "caption", "image", "sha256", "width", "height"]
PAIR_COLUMNS = ["id", "caption", "image_w", "image_l"]
PROMPT_COLUMNS = ["prompt_id", "prompt", "category"]


@dataclass
class DataCard:
    """Where a data set came from and what became of its rows."""

    source: str
    rows_read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count one row as dropped for `reason`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def image_row(root: Path, identifier: str, caption: str, image: str) -> dict[str, object]:
    """A manifest row for an image file below `root`."""
    path = root / image
    with Image.open(path) as opened:
        width, height = opened.size
    return dict(
        zip(MANIFEST_COLUMNS, (identifier, caption, image, sha256_file(path), width, height), strict=True)
    )


def write_manifest(
    root: Path,
    rows: list[dict[str, object]],
    pairs: list[dict[str, object]],
    prompts: dict[str, list[dict[str, object]]],
    card: DataCard,
) -> None:
    """Write the tables and the card of a data set into `root`; raises `DataError` if nothing is left to train on."""
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in card.dropped.items()) or "none was found"
        raise DataError(
            f"{card.source} must hold at least one captioned image to train on, got none ({reasons})."
        )
    pd.DataFrame(rows, columns=MANIFEST_COLUMNS).to_parquet(root / "manifest.parquet", index=False)
    if pairs:
        pd.DataFrame(pairs, columns=PAIR_COLUMNS).to_parquet(root / "pairs.parquet", index=False)
    (root / "prompts").mkdir(exist_ok=True)
    for split, split_rows in prompts.items():
        frame = pd.DataFrame(split_rows, columns=PROMPT_COLUMNS)
        frame.to_parquet(root / "prompts" / f"{split}.parquet", index=False)
    counts = {
        "train": len(rows),
        "pairs": len(pairs),
        **{split: len(items) for split, items in prompts.items()},
    }
    write_json(
        root / "card.json",
        {"source": card.source, "rows_read": card.rows_read, "dropped": card.dropped, "kept": counts},
    )


def read_manifest(root: Path) -> pd.DataFrame:
    """Read the training rows; raises `DataError` if the data stage has not run."""
    return _read(root / "manifest.parquet")


def read_pairs(root: Path) -> pd.DataFrame:
    """Read the preference pairs; raises `DataError` if the data set has none."""
    if not (root / "pairs.parquet").is_file():
        raise DataError(
            f"Diffusion-DPO must have preference pairs, but the data set in {root} holds single images; "
            "remove the dpo baseline from params.yaml or use a data set of pairs."
        )
    return _read(root / "pairs.parquet")


def read_prompts(root: Path, split: str) -> pd.DataFrame:
    """Read a prompt set of the data set: columns prompt_id, prompt, category."""
    return _read(root / "prompts" / f"{split}.parquet")


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} must exist, found none; run `spin data` first.")
    return pd.read_parquet(path)
