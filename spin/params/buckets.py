"""The sizes that images are brought to where they need not be square: about one area, many aspect ratios."""

import math
from typing import Annotated

from pydantic import Field

from spin.params.section import PositiveInt, Section

Size = tuple[int, int]
"""(width, height) in pixels."""

LEAST_AREA_PERCENT = 90
"""Of the square's area. With it, sides of multiples of 64 and ratios up to 4 the sizes at 1024 pixels are the 40 that SDXL was
trained at (Podell et al. 2023, arXiv:2307.01952, appendix I) and the mirror of one, and memory and time hardly differ
between buckets."""


class AspectBuckets(Section):
    """Images are cropped to the nearest of several sizes of about one area instead of to a square."""

    step: PositiveInt
    """What all sides are a multiple of, itself a multiple of 8. 64 for Stable Diffusion 1.x and 2.x, whose autoencoder
    halves an image thrice and whose UNet halves the latents thrice more, and for SDXL, which was trained so; smaller
    gives more sizes, and crops less, where the denoiser can take them."""
    max_ratio: Annotated[float, Field(ge=1, le=100)]
    """Of the longer side to the shorter one, at most; SDXL's is 4. What is longer is cropped to the longest bucket."""

    def sizes(self, resolution: int) -> list[Size]:
        """All multiples of `step` of nearly the area of the square and of ratios up to `max_ratio`, by width."""
        area, step = resolution**2, self.step
        longest = min(area // step, math.isqrt(int(area * self.max_ratio) + 1))
        widths = range(step, longest + 1, step)
        return [
            (width, height)
            for width in widths
            for height in range(
                -(-LEAST_AREA_PERCENT * area // (100 * width * step)) * step, area // width + 1, step
            )
            if max(width, height) <= self.max_ratio * min(width, height)
        ]
