"""Properties of aspect-ratio buckets in the data stage: which sizes there are, which an image gets, what is counted."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spin.data.folder import write_folder_data
from spin.data.images import is_beyond, nearest, prepare_image, resize_and_crop
from spin.errors import DataError
from spin.params.buckets import AspectBuckets
from spin.params.data import FolderData
from spin.runtime.files import read_json
from spin.runtime.images import UnusableImageError
from tests.data.sources import bring, judged

SDXL = AspectBuckets(step=64, max_ratio=4.0).sizes(1024)
SMALL = AspectBuckets(step=8, max_ratio=2.0)
"""24x40, 32x32 and 40x24 at 32 pixels."""
PORTRAITS_OF_SDXL = """512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408 704x1344
768x1344 768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024""".split()
"""Of the table in appendix I of its paper, which has all their landscapes too, 1344x704 excepted, and the square."""


def test_at_1024_pixels_the_sizes_are_those_that_sdxl_was_trained_at() -> None:
    portraits = {(int(width), int(height)) for width, height in (s.split("x") for s in PORTRAITS_OF_SDXL)}
    assert set(SDXL) == portraits | {(height, width) for width, height in portraits} | {(1024, 1024)}


@pytest.mark.parametrize(
    ("step", "ratio", "resolution"), [(64, 2.0, 512), (8, 4.0, 512), (32, 3.0, 768), (8, 2.0, 32)]
)
def test_every_size_is_of_the_area_and_lies_the_other_way_too(
    step: int, ratio: float, resolution: int
) -> None:
    sizes = AspectBuckets(step=step, max_ratio=ratio).sizes(resolution)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes) > 1
    for width, height in sizes:
        assert (height, width) in sizes
        assert width % step == height % step == 0
        assert 0.9 <= width * height / resolution**2 <= 1
        assert max(width, height) / min(width, height) <= ratio


def test_an_image_gets_the_size_that_cuts_the_least_of_it_away() -> None:
    rng = random.Random(0)
    for _ in range(300):
        width, height = rng.randint(200, 4000), rng.randint(200, 4000)

        def lost(size: tuple[int, int], width: int = width, height: int = height) -> float:
            scale = max(size[0] / width, size[1] / height)
            return 1 - size[0] * size[1] / (scale * width * scale * height)

        assert lost(nearest(SDXL, width, height)) == pytest.approx(min(map(lost, SDXL)), abs=1e-12)
    squares = AspectBuckets(step=8, max_ratio=1.0).sizes(1024)
    assert nearest(squares, 3000, 3000) == (1024, 1024), "of the same shape the largest"
    assert len(squares) > 1


def gradient(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from the top to the bottom."""
    across, down = np.linspace(0, 255, width), np.linspace(0, 255, height)
    channels = np.broadcast_to(across, (height, width)), np.broadcast_to(down[:, None], (height, width))
    return Image.fromarray(np.stack([*channels, np.zeros((height, width))], -1).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("width", "height"), [(300, 500), (500, 300), (299, 501), (450, 600), (600, 450), (333, 333)]
)
def test_the_corner_and_the_original_size_say_where_every_pixel_was(width: int, height: int) -> None:
    stream = io.BytesIO()
    gradient(width, height).save(stream, format="PNG")
    prepared = prepare_image(stream.getvalue(), AspectBuckets(step=32, max_ratio=2.0).sizes(256), "drop")
    image = np.asarray(Image.open(io.BytesIO(prepared.png)), dtype=float)
    assert image.shape == (prepared.height, prepared.width, 3)
    assert (prepared.original_width, prepared.original_height) == (width, height)
    scale = max(
        prepared.width / width, prepared.height / height
    )  # as SDXL is told: the corner is in resized pixels
    assert prepared.crop_left == pytest.approx((scale * width - prepared.width) / 2, abs=1), "the centre"
    assert prepared.crop_top == pytest.approx((scale * height - prepared.height) / 2, abs=1)
    for x, y in (
        (0, 0),
        (prepared.width - 1, prepared.height - 1),
        (prepared.width // 2, prepared.height // 3),
    ):
        red = 255 * ((x + prepared.crop_left + 0.5) / scale) / width
        green = 255 * ((y + prepared.crop_top + 0.5) / scale) / height
        assert image[y, x, 0] == pytest.approx(red, abs=3)
        assert image[y, x, 1] == pytest.approx(green, abs=3)


def test_a_size_of_the_images_own_shape_cuts_nothing_away() -> None:
    image, top, left = resize_and_crop(gradient(480, 800), 384, 640)
    assert (image.size, top, left) == ((384, 640), 0, 0)


def test_what_is_longer_than_the_longest_size_is_cropped_to_it() -> None:
    assert nearest(SDXL, 5000, 500) == (2048, 512)
    assert is_beyond(SDXL, 5000, 500)
    assert is_beyond(SDXL, 500, 5000)
    assert not is_beyond(SDXL, 2000, 500)
    assert not is_beyond([(512, 512)], 5000, 500), "squares have no ends to lose"


@pytest.mark.parametrize(
    ("size", "usable"), [((24, 40), True), ((30, 40), True), ((23, 60), False), ((24, 39), False)]
)
def test_an_image_must_be_as_large_as_its_bucket_and_not_as_the_square(
    size: tuple[int, int], usable: bool
) -> None:
    stream = io.BytesIO()
    gradient(*size).save(stream, format="PNG")
    sizes = SMALL.sizes(32)
    if usable:
        assert prepare_image(stream.getvalue(), sizes, "drop").height == 40
        return
    with pytest.raises(UnusableImageError) as caught:
        prepare_image(stream.getvalue(), sizes, "drop")
    assert caught.value.reason == "smaller than their bucket"
    assert prepare_image(stream.getvalue(), sizes, "upscale").width == 24


def folder_of(folder: Path, sizes: list[tuple[int, int]]) -> FolderData:
    folder.mkdir()
    rows = ["file_name,text"]
    for number, size in enumerate(sizes):
        image = gradient(*size)
        image.putpixel((0, 0), (number, number, number))  # no two are the same
        image.save(folder / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,picture {number}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    shared = {"small_images": "drop", "aspect_buckets": SMALL, "trigger": None, "repeats": False}
    return FolderData(kind="folder", path=str(folder), num_val=1, num_test=1, **shared)


def test_the_manifest_has_each_images_size_and_the_card_counts_them(tmp_path: Path) -> None:
    given = [(48, 80), (40, 40), (80, 48), (20, 90), (20, 200), (48, 160), (64, 64), (100, 60)]
    params, out = folder_of(tmp_path / "pictures", given), tmp_path / "data"
    out.mkdir()
    write_folder_data(out, params, 32)
    listed = pd.read_parquet(out / "manifest.parquet")
    sizes = [f"{row.width}x{row.height}" for row in listed.itertuples()]
    assert sizes == ["24x40", "32x32", "40x24", "24x40", "32x32", "40x24"]
    card: dict[str, Any] = read_json(out / "card.json")
    assert card["dropped"] == {"smaller than their bucket": 2}
    assert card["noted"] == {"beyond the shapes of the buckets, which lose their ends": 1}
    assert card["buckets"] == {"24x40": 2, "32x32": 2, "40x24": 2}


def test_a_pair_of_two_shapes_is_dropped_and_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.data.images import jpeg

    rows = [judged(index, f"prompt {index}", 1.0) for index in range(6)]
    rows[2] |= {"jpg_0": jpeg(90, (48, 80))}
    rows[3] |= {"jpg_0": jpeg(91, (48, 80)), "jpg_1": jpeg(92, (50, 80))}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    shared = {"source": str(tmp_path / "train.parquet"), "pairs": True, "aspect_buckets": SMALL}
    out = bring(tmp_path / "data", **shared)
    assert read_json(out / "card.json")["dropped"] == {"of two images in different buckets": 1}
    pairs = pd.read_parquet(out / "pairs.parquet")
    assert sorted(pairs["height"]) == [32, 32, 32, 32, 40]


def test_a_folder_where_nothing_fits_is_one_sentence(tmp_path: Path) -> None:
    params, out = folder_of(tmp_path / "pictures", [(20, 39), (10, 10), (39, 20)]), tmp_path / "data"
    out.mkdir()
    with pytest.raises(DataError, match=r"at least one captioned image .*3 smaller than their bucket"):
        write_folder_data(out, params, 32)


def test_both_directions_are_treated_alike_and_a_tie_spares_the_head() -> None:
    for width, height in ((3, 2), (7, 5), (16, 9)):
        assert nearest(SDXL, width, height) == nearest(SDXL, height, width)[::-1]
    eighths = AspectBuckets(step=8, max_ratio=2.5).sizes(64)
    assert nearest(eighths, 500, 1000) == (40, 96), "48x80 would cut as much, above and below"
