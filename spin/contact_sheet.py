"""Small pictures side by side on one."""

from collections.abc import Sequence

from PIL import Image

MIN_TILE = 96
"""Smallest side of an image on a sheet, in pixels."""


def contact_sheet(images: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """Square images row by row; raises `ValueError` without any."""
    if not images:
        raise ValueError("a contact sheet must have at least one image, got none")
    tile = max(images[0].width, MIN_TILE)
    sheet = Image.new("RGB", (columns * tile, -(-len(images) // columns) * tile), "white")
    for index, image in enumerate(images):
        place = (index % columns * tile, index // columns * tile)
        sheet.paste(image.resize((tile, tile), Image.Resampling.NEAREST), place)
    return sheet
