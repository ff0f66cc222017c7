"""Updates and batch for the number of images that there are: epochs, where a profile's numbers are for many images."""

import math
from typing import Any

from spin.tools.init.profile import with_nested_value, with_number

EPOCHS = 20
"""Times that a training stage sees each image, at most. The paper's: 500 updates of 2048 over some 58,000 captions, 17.5."""
SMALLEST_BATCH = 8


def for_images(text: str, params: dict[str, Any], images: int) -> tuple[str, str]:
    """Lower updates and batch of a profile so that its longest stage passes `images` training images EPOCHS times.

    As few updates as the profile has, or fewer, in the smallest batch of a power of two, of SMALLEST_BATCH pairs at
    least; all stages, with their warm-ups, by the same share. Return the profile's text and what was done to it, in
    words; where the profile makes fewer passes both are as they were, the second empty.
    """
    stages = {("iterations", name): each for name, each in params["iterations"].items()}
    stages |= {("baselines", name): each for name, each in params["baselines"].items()}
    longest = max((each["num_steps"] for each in stages.values()), default=0)
    batch = params["training"]["batch_size"]
    pairs = EPOCHS * images
    if pairs >= longest * batch:
        return text, ""

    # The batch.
    smaller = min(batch, max(SMALLEST_BATCH, 1 << (math.ceil(pairs / longest) - 1).bit_length()))
    text = with_nested_value(text, "training", "batch_size", smaller, f"for {images} images (docs/data.md)")
    if isinstance(params["training"]["micro_batch_size"], int):
        micro = math.gcd(smaller, params["training"]["micro_batch_size"])
        text = with_nested_value(text, "training", "micro_batch_size", micro)

    # The updates of each stage.
    share, steps = math.ceil(pairs / smaller) / longest, {}
    for (section, name), each in stages.items():
        steps[name] = math.ceil(each["num_steps"] * share)
        text = with_number(text, section, name, "num_steps", steps[name])
        warmup = min(steps[name], round(each["warmup_steps"] * share))
        text = with_number(text, section, name, "warmup_steps", warmup)
    for name, each in params["continual"].items():  # whose points must meet the end
        most = max(1, round(each["every"] * share))
        every = next(number for number in range(most, 0, -1) if steps[each["next"]] % number == 0)
        text = with_number(text, "continual", name, "every", every)
    return text, (
        f"{max(steps.values())} updates of {smaller} pairs in a training stage, {EPOCHS} times over {images} images (the "
        f"profile's {longest} of {batch} are for {longest * batch // EPOCHS} and more)"
    )
