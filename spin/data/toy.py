"""The embedded world as a data set: one preference pair per training caption, its winner the SPIN image."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from spin.data.card import DataCard
from spin.data.manifest import (
    MANIFEST_SCHEMA,
    PAIR_SCHEMA,
    TableWriter,
    pair_row,
    uncropped_row,
    write_prompts,
)
from spin.data.stored import ImageShards
from spin.errors import DataError
from spin.params.data import ToyData
from spin.seeding import derive_seed
from spin.toy.world import Scene, preference_pair, split_scenes, to_uint8


def write_toy_data(root: Path, params: ToyData, seed: int) -> None:
    """Render winners and losers into `root`, a pair for each of the first `num_train` training scenes."""
    # There must be as many scenes as asked for.
    splits = split_scenes()
    wanted = {"train": params.num_train, "val": params.num_val, "test": params.num_test}
    for split, count in wanted.items():
        if count > len(splits[split]):
            raise DataError(
                f"data.num_{split} must be <= {len(splits[split])}, the world's {split} captions, got {count}."
            )

    # A pair of images per training scene: winner and loser.
    with (
        ImageShards(root) as shards,
        TableWriter(root / "manifest.parquet", MANIFEST_SCHEMA) as manifest,
        TableWriter(root / "pairs.parquet", PAIR_SCHEMA) as pairs,
    ):
        for index, scene in enumerate(splits["train"][: params.num_train]):
            rng = np.random.default_rng(derive_seed("toy pair", seed, index))
            identifier = f"train-{index:05d}"
            rows = []
            rendered = preference_pair(scene, params.max_severity, params.label_accuracy, rng)
            for role, image in zip("wl", rendered, strict=True):
                stream = io.BytesIO()
                Image.fromarray(to_uint8(image)).save(stream, format="PNG")
                place = shards.add(f"{identifier}-{role}.png", stream.getvalue())
                rows.append(uncropped_row(identifier, scene.caption, stream.getvalue(), place))
            manifest.add(rows[0])
            pairs.add(pair_row(identifier, *rows))

    # Held-out captions and the card.
    held_out = {
        split: [(scene.caption, scene.relation, _objects(scene)) for scene in splits[split][: wanted[split]]]
        for split in ("val", "test")
    }
    write_prompts(root, held_out)
    card = DataCard(source="the embedded world", rows_read=params.num_train)
    card.write(root / "card.json", {**wanted, "pairs": params.num_train})


def _objects(scene: Scene) -> str:
    """The two objects in one order: what the eight captions of a pair share."""
    return " and ".join(sorted(f"{thing.colour} {thing.shape}" for thing in (scene.first, scene.second)))
