"""Photographs as people take them: portraits, landscapes and squares of somebody whose head is near the upper edge."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

RATIOS = ((2, 3), (3, 4), (4, 5), (9, 16), (1, 1), (3, 2), (4, 3), (16, 9), (1, 2), (1, 1))
HEAD = (255, 0, 0)
SKIES = ((20, 40, 200), (10, 120, 60), (90, 20, 120))
HEAD_TOP, HEAD_HEIGHT = 0.08, 0.15
"""In parts of the image's height."""


def person(number: int, shortest: int) -> Image.Image:
    """A red head and a white body before a plain background; the ratio goes through `RATIOS`."""
    across, down = RATIOS[number % len(RATIOS)]
    scale = shortest / min(across, down)
    width, height = round(across * scale), round(down * scale)
    image = Image.new("RGB", (width, height), SKIES[number % len(SKIES)])
    draw = ImageDraw.Draw(image)
    top, size, middle = HEAD_TOP * height, HEAD_HEIGHT * height, width / 2
    draw.ellipse((middle - size / 2, top, middle + size / 2, top + size), fill=HEAD)
    draw.rectangle((middle - 0.7 * size, top + size, middle + 0.7 * size, 0.85 * height), fill="white")
    image.putpixel((0, height - 1), (number, number, number))  # no two files are the same
    return image


def write_people(folder: Path, count: int, shortest: int = 96) -> None:
    """A folder of `count` such photographs with metadata.csv."""
    folder.mkdir(parents=True)
    rows = ["file_name,text"]
    for number in range(count):
        person(number, shortest).save(folder / f"{number:03d}.png")
        rows.append(f"{number:03d}.png,person {number}")
    (folder / "metadata.csv").write_text("\n".join(rows))


def shows_whole_head(image: Image.Image) -> bool:
    """Whether there is background above, left and right of the red that is in the image."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1:].max(-1) < 100)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return len(rows) > 0 and rows[0] > 0 and columns[0] > 0 and columns[-1] < pixels.shape[1] - 1
