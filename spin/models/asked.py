"""TFLOP of what the meter saw a base's networks do; multiply-add = 2."""

from collections import Counter
from collections.abc import Mapping
from functools import partial

import torch

from spin.models.bases import Base
from spin.models.families import parts_present
from spin.models.find import read_config
from spin.models.flops import build_vae, decoding_tflop, encoding_tflop, latents_side, prediction_tflop
from spin.models.sd3 import T5_LENGTH
from spin.params.training import LoraParams
from spin.runtime.flops import tflop_of
from spin.runtime.meter import Ask


def tflop_of_asked(
    asked: Mapping[Ask, int], base: Base, lora: LoraParams | None, resolution: int | None = None
) -> float:
    """TFLOP of denoiser, autoencoder and text encoders, `lora` being the adapter of those that carried one; what the
    scorers did is not among it.

    The meter knows the width of what went in and takes it for a square. Where images have other shapes, all of about the
    area of the square of `resolution` pixels, they count as that: up to a tenth too much, as in a plan.
    """
    denoiser = read_config(base.folder / base.family.denoiser_folder / "config.json", base.source)
    vae = build_vae(read_config(base.folder / "vae" / "config.json", base.source))
    if resolution is not None:
        asked = _squares(asked, resolution, latents_side(vae, resolution))
    total = 0.0
    for ask, rows in asked.items():
        if ask.part == "denoiser":
            adapter = lora if ask.adapted else None
            total += rows * prediction_tflop(denoiser, ask.side, ask.tokens, ask.trained, adapter)
        elif ask.part == "encoder":
            total += rows * encoding_tflop(vae, ask.side)
        elif ask.part == "decoder":
            total += rows * decoding_tflop(vae, ask.side)
        elif ask.part == "text":
            total += rows * text_tflop(base)
    return total


def _squares(asked: Mapping[Ask, int], pixels: int, latents: int) -> Mapping[Ask, int]:
    squares = Counter[Ask]()
    for ask, rows in asked.items():
        side = pixels if ask.part == "encoder" else latents
        squares[ask._replace(side=side) if ask.side else ask] += rows
    return squares


def text_tflop(base: Base) -> float:
    """TFLOP of a caption through all text encoders of the base, padded to their lengths."""
    import transformers

    total = 0.0
    for part in parts_present(base.family, base.folder, base.source):
        kind = base.family.parts[part]
        if not part.startswith("text_encoder"):
            continue
        config = transformers.AutoConfig.from_pretrained(base.folder / part)
        with torch.device("meta"):
            encoder = getattr(transformers, kind)(config)
            length = T5_LENGTH if kind == "T5EncoderModel" else config.max_position_embeddings
            ids = torch.zeros(1, length, dtype=torch.long)
        total += tflop_of(partial(encoder, ids))
    return total
