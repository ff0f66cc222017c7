"""The early base is the base's own training, stopped: what it is does not depend on how far the training goes on."""

import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from spin.models.find import embedded_base
from spin.tools.toy.base import load_world_tokenizer, train_base
from spin.tools.toy.pool import draw_pool


def test_a_stop_on_the_way_is_the_end_of_a_training_that_ended_there() -> None:
    vae = AutoencoderKL.from_pretrained(embedded_base() / "vae")
    images, scenes = draw_pool(64, 0)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = load_world_tokenizer(Path(scratch))
        both = train_base(vae, tokenizer, images, scenes, [2, 4], 0, lambda *_: None)
        short = train_base(vae, tokenizer, images, scenes, [2], 0, lambda *_: None)
    assert sorted(both) == [2, 4]
    for name, value in short[2].state_dict().items():
        assert torch.equal(value, both[2].state_dict()[name])
    assert any(
        not torch.equal(a, b)
        for a, b in zip(both[2].state_dict().values(), both[4].state_dict().values(), strict=True)
    )
