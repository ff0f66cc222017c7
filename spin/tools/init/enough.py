"""Whether a source holds enough to train on and to judge by, and what helps where it does not."""

from spin.errors import DataError
from spin.tools.init.look import TOO_SMALL, Look, NamingCard

FEWEST_IMAGES = 16
"""Images below which `spin init` asks whether that is meant."""
FEW_TEST_PROMPTS = 50
"""Held-out prompts below which two models can hardly be told apart: the 95% interval of a winning rate near one half is
wider than 14 percentage points to either side."""
WORTH_SAYING = 0.1
"""Share of the images that are too small from which on there is a warning."""


def check_enough(images: int | None, card: NamingCard, look: Look, resolution: int, fewest: int) -> None:
    """Raise `DataError` if fewer than `fewest` images can be used; an unknown number passes."""
    if images is not None and images < fewest:
        raise DataError(
            f"{card.source} must hold at least {fewest} images that can be used, found {images} ({card.sentence()}); "
            f"{remedy(card, look, resolution)}, or go on with these by --min-images {max(1, images)}."
        )


def remedy(card: NamingCard, look: Look, resolution: int) -> str:
    """What would keep more of the images, in words."""
    if not _too_small(card, resolution):
        return "add captioned images"
    ways, total = [f"--small-images enlarge keeps {len(look.sides)}"], len(look.sides)
    step = 64 if resolution > 128 else 8
    for side in range(resolution - step, max(step, resolution // 2) - 1, -step):
        kept = sum(each >= side for each in look.sides)
        if kept >= (1 - WORTH_SAYING) * total:
            ways.insert(0, f"--resolution {side} keeps {kept} of them")
            break
    return ", ".join(ways)


def warnings(card: NamingCard, look: Look, resolution: int, test_prompts: int | None) -> list[str]:
    """What a person should know before hours are spent; `test_prompts` are those held out, None where others judge."""
    said = []
    small = _too_small(card, resolution)
    if small > WORTH_SAYING * len(look.sides):
        said.append(
            f"{small} of {len(look.sides)} images are smaller than {resolution} pixels and will not be used; "
            f"{remedy(card, look, resolution)}"
        )
    if test_prompts is not None and test_prompts < FEW_TEST_PROMPTS:
        said.append(
            f"{test_prompts} test prompts will hardly tell models apart, {FEW_TEST_PROMPTS} or more would; add captioned "
            "images, or name a file of prompts under prompt_sets (docs/evaluation.md)"
        )
    return [f"warning: {each}." for each in said]


def _too_small(card: NamingCard, resolution: int) -> int:
    return sum(card.dropped.get(reason, 0) for reason in (f"smaller than {resolution} pixels", TOO_SMALL))
