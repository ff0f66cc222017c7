"""Captions that are tags with commas between: arrangements of each, cached beside it and drawn from in training.

Which arrangements a caption has is a function of the caption alone, so that runs of other seeds find them in the same cache.
"""

import torch

from spin.params.training import TagParams
from spin.seeding import generator_for


def arranged(caption: str, number: int, tags: TagParams) -> str:
    """Arrangement `number` of a caption: the first `tags.keep` tags, then the others in another order and some left out.

    `a, b, c, d` with keep 1 may become `a, d, b`. A caption that would lose all its tags keeps its first one.
    """
    parts = [part for part in (part.strip() for part in caption.split(",")) if part]
    first, others = parts[: tags.keep], parts[tags.keep :]
    if not others:
        return caption
    generator = generator_for("tags", caption, number)
    order = torch.randperm(len(others), generator=generator).tolist()
    stays = (torch.rand(len(others), generator=generator) >= tags.dropout).tolist()
    return ", ".join([*first, *(others[place] for place in order if stays[place])] or parts[:1])


def arrangements(caption: str, tags: TagParams | None) -> list[str]:
    """All arrangements of a caption that training may draw."""
    return [] if tags is None else [arranged(caption, number, tags) for number in range(tags.variants)]
