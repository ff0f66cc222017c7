"""Pictures with words on one sheet: each under its label, and a caption below those that belong together."""

import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from spin.runtime.images import MIN_TILE

CAPTION_LINES = 3
"""A longer caption ends in an ellipsis."""
SMALLEST_LETTERS = 12
"""Of the font, in pixels; a larger tile has larger ones."""

Group = tuple[str, Sequence[tuple[str, Image.Image]]]
"""A caption, and the square pictures above it with their labels."""


def labelled_sheet(groups: Sequence[Group], columns: int) -> Image.Image:
    """Groups row by row, all of as many pictures; raises `ValueError` without any."""
    if not groups or not groups[0][1]:
        raise ValueError("a sheet must have at least one picture, got none")
    tile = max(groups[0][1][0][1].width, MIN_TILE)
    size = max(SMALLEST_LETTERS, tile // 24)
    font, line = _font(size), size * 5 // 4
    wide, high = tile * len(groups[0][1]), line + tile + (CAPTION_LINES + 1) * line
    columns = min(columns, len(groups))
    shape = (columns * wide + (columns - 1) * size, -(-len(groups) // columns) * high)
    sheet = Image.new("RGB", shape, "white")
    for index, (caption, pictures) in enumerate(groups):
        left, top = index % columns * (wide + size), index // columns * high
        for place, (label, picture) in enumerate(pictures):
            x = left + place * tile
            sheet.paste(_written([label], (tile, line), font), (x, top))
            sheet.paste(picture.resize((tile, tile), Image.Resampling.NEAREST), (x, top + line))
        letters = max(int(wide / font.getlength("n")), 1)
        lines = textwrap.wrap(caption, letters, max_lines=CAPTION_LINES, placeholder=" …")
        sheet.paste(_written(lines, (wide, CAPTION_LINES * line), font), (left, top + line + tile))
    return sheet


def _written(lines: Sequence[str], size: tuple[int, int], font: ImageFont.FreeTypeFont) -> Image.Image:
    """Lines of text on a strip; what runs over its edge is cut."""
    strip = Image.new("RGB", size, "white")
    ImageDraw.Draw(strip).multiline_text((2, 0), "\n".join(lines), fill="#333333", font=font, spacing=1)
    return strip


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font of the figures, which has more alphabets than Pillow's own."""
    found = find_spec("matplotlib")  # which takes a second to import
    assert found is not None
    assert found.origin is not None
    return ImageFont.truetype(
        str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
