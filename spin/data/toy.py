"""The embedded world as a data set: one preference pair per training caption, its winner the SPIN image."""

from pathlib import Path

import numpy as np
from PIL import Image

from spin.data.manifest import DataCard, image_row, write_manifest
from spin.errors import DataError
from spin.params import ToyData
from spin.seeding import derive_seed
from spin.toy.world import preference_pair, split_scenes, to_uint8


def write_toy_data(root: Path, params: ToyData, seed: int) -> None:
    """Render winners and losers into `root`, a pair for each of the first `num_train` training scenes."""
    splits = split_scenes()
    for split, wanted in (("train", params.num_train), ("val", params.num_val), ("test", params.num_test)):
        if wanted > len(splits[split]):
            raise DataError(
                f"data.num_{split} must be <= {len(splits[split])}, the world's {split} captions, got {wanted}."
            )
    (root / "images").mkdir()
    rows: list[dict[str, object]] = []
    pairs: list[dict[str, object]] = []
    for index, scene in enumerate(splits["train"][: params.num_train]):
        rng = np.random.default_rng(derive_seed("toy pair", seed, index))
        identifier = f"train-{index:05d}"
        names = {}
        rendered = preference_pair(scene, params.max_severity, params.label_accuracy, rng)
        for role, image in zip("wl", rendered, strict=True):
            names[role] = f"images/{identifier}-{role}.png"
            Image.fromarray(to_uint8(image)).save(root / names[role])
        rows.append(image_row(root, identifier, scene.caption, names["w"]))
        pairs.append(
            {"id": identifier, "caption": scene.caption, "image_w": names["w"], "image_l": names["l"]}
        )
    prompts: dict[str, list[dict[str, object]]] = {
        split: [
            {"prompt_id": f"{split}-{index:05d}", "prompt": scene.caption, "category": scene.relation}
            for index, scene in enumerate(splits[split][:count])
        ]
        for split, count in (("val", params.num_val), ("test", params.num_test))
    }
    write_manifest(
        root, rows, pairs, prompts, DataCard(source="the embedded world", rows_read=params.num_train)
    )
