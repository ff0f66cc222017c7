"""One entry for every kind of data source."""

from pathlib import Path

import pandas as pd

from spin.data.manifest import MANIFEST_SCHEMA, PROMPT_COLUMNS, TableWriter
from spin.params.schema import Params
from spin.runtime.files import write_json


def write_data(root: Path, params: Params) -> None:
    """Bring the data source of `params` to a manifest with prompt sets in the existing empty folder `root`."""
    data = params.data
    if data.kind == "toy":
        from spin.data.toy import write_toy_data

        write_toy_data(root, data, params.seed)
    elif data.kind == "folder":
        from spin.data.folder import write_folder_data

        write_folder_data(root, data, params.resolution)
    elif data.kind == "dataset":
        from spin.data.dataset import write_dataset_data

        write_dataset_data(root, data, params.resolution)
    elif data.kind == "none":
        write_no_data(root)
    else:
        from spin.data.pickapic import write_pickapic_data

        write_pickapic_data(root, data, params.resolution)


def write_no_data(root: Path) -> None:
    """Write an empty manifest and empty prompt sets, for a run that only evaluates."""
    with TableWriter(root / "manifest.parquet", MANIFEST_SCHEMA):
        pass
    (root / "images").mkdir()
    (root / "prompts").mkdir()
    for split in ("val", "test"):
        pd.DataFrame(columns=PROMPT_COLUMNS, dtype=str).to_parquet(root / "prompts" / f"{split}.parquet")
    write_json(root / "card.json", {"source": "none", "rows_read": 0, "kept": {"train": 0}, "dropped": {}})
