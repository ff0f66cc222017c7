"""Photographs shipped inside Python packages, cut into captioned pictures; the captions were written here."""

import csv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

Cut = tuple[tuple[float, float, float, float], str]
"""Left, top, right and bottom in tenths of the photograph, and a caption."""
WHOLE = (0, 0, 10, 10)
CUTS: dict[tuple[str, str], list[Cut]] = {
    ("sklearn", "datasets/images/china.jpg"): [
        (WHOLE, "a red pagoda with orange roofs above a lake"),
        ((0, 0, 6.7, 10), "a pagoda with orange roofs among green trees"),
        ((1.3, 0.5, 5.3, 6.5), "the upper floors of a pagoda, red walls and tiled roofs"),
        ((1.8, 0.4, 4.8, 4.9), "the top of a pagoda against the sky"),
        ((1, 5.5, 5.3, 10), "the lower roofs of a pagoda behind green bushes"),
        ((5.6, 3.5, 8.6, 8), "a grey lake in the haze behind green trees"),
        ((6, 6, 8.7, 10), "dense green treetops from above"),
        ((8, 3, 10, 6), "a dark tree beside a lake"),
        ((5, 0, 8.3, 5), "a pale blue sky in the haze"),
    ],
    ("sklearn", "datasets/images/flower.jpg"): [
        (WHOLE, "an orange dahlia before dark green leaves"),
        ((2.3, 1.6, 7.2, 8.9), "an orange dahlia in full bloom"),
        ((3.5, 3.5, 6.2, 7.5), "the heart of a dahlia, rows of orange petals"),
        ((2.6, 2, 5, 5.6), "orange petals at the upper left of a flower"),
        ((4.6, 4.6, 7.1, 8.4), "orange petals at the lower right of a flower"),
        ((4, 6.8, 7.2, 10), "a second dahlia below the first"),
        ((0, 2, 2.5, 5.8), "dark teal leaves out of focus"),
        ((7.2, 2, 10, 6.2), "a blurred dark green background"),
    ],
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"): [
        (WHOLE, "a naval officer in uniform before a flag"),
        ((1.8, 0, 8.2, 5.5), "an old woman with glasses and a naval cap"),
        ((3.1, 0.2, 7.4, 2.9), "a black naval cap with a golden badge"),
        ((0, 0, 3.2, 4), "white stars on a blue flag with a golden fringe"),
        ((2, 6, 9.5, 10), "a dark uniform with a tie and ribbons"),
    ],
    ("skimage", "data/astronaut.png"): [
        (WHOLE, "a smiling astronaut in an orange suit beside her helmet"),
        ((2.5, 0, 6.5, 4), "the face of a smiling woman with short brown hair"),
        ((6, 0, 10, 5.5), "a model of a space shuttle on its tank"),
        ((5.3, 6.3, 10, 10), "a white and black helmet"),
        ((0, 4.5, 5, 9.5), "an orange space suit with a round badge"),
    ],
    ("skimage", "data/chelsea.png"): [
        (WHOLE, "the face of a tabby cat with green eyes"),
        ((2.4, 2.3, 5.2, 6), "the green eye of a cat"),
        ((4.5, 5.5, 8.2, 10), "the pink nose and the whiskers of a cat"),
    ],
    ("skimage", "data/coffee.png"): [
        (WHOLE, "a cup of espresso on a red saucer"),
        ((2.5, 0, 7.2, 6.5), "a cup half full of coffee"),
        ((5, 5, 8, 9.5), "a small spoon on a red saucer"),
    ],
    ("skimage", "data/rocket.jpg"): [
        (WHOLE, "a rocket on its launch pad at dusk"),
        ((3.4, 2.5, 6.6, 10), "a white rocket against the sky at dusk"),
        ((0, 0, 3.3, 6), "a lattice tower before a dark blue sky"),
    ],
    ("skimage", "data/motorcycle_left.png"): [
        (WHOLE, "a red motorcycle in a garage"),
        ((1.4, 4.5, 4.4, 8.6), "the rear wheel of a motorcycle"),
        ((6.3, 4.8, 9.4, 9.5), "the front wheel of a red motorcycle"),
        ((4.6, 0, 10, 3.5), "shelves with boxes in a garage"),
    ],
    ("skimage", "data/camera.png"): [
        (WHOLE, "a man with a camera on a tripod in black and white"),
        ((2.5, 1, 7, 5.5), "a man looking through a camera in black and white"),
    ],
}


def captions() -> list[str]:
    """All of them, of photographs that are not installed too, so that a tokenizer has their words."""
    return [caption for cuts in CUTS.values() for _, caption in cuts]


def write_pictures(folder: Path) -> int:
    """Write the pictures of all installed photographs and a metadata.csv; return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = []
    for path, box, caption in _found():
        with Image.open(path) as photograph:
            sides = [photograph.width, photograph.height] * 2
            corners = tuple(round(side * tenths / 10) for side, tenths in zip(sides, box, strict=True))
            picture = photograph.convert("RGB").crop(corners)  # type: ignore[arg-type]
        name = f"{path.stem}-{len(rows):02d}.png"
        picture.save(folder / name)
        rows.append((name, caption))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "text"), *rows])
    return len(rows)


def _found() -> Iterator[tuple[Path, tuple[float, float, float, float], str]]:
    for (package, name), cuts in CUTS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin).parent / name
        if path.is_file():
            yield from ((path, box, caption) for box, caption in cuts)
