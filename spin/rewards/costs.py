"""What a reward model costs an image: its real layers, counted on the meta device without their weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spin.params.schema import Params
from spin.rewards.names import BUILT_IN, ORACLES
from spin.rewards.weights import Source, open_source
from spin.runtime.flops import tflop_of

MED_CONFIG: dict[str, Any] = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
"""ImageReward's text encoder, BERT-base: what its med_config.json says."""


def scoring_costs(params: Params) -> dict[str, float | None]:
    """TFLOP of one image, with its caption, by each scorer; None for a user's own, whose layers nobody here knows.

    Raises `ScoreError` where the folder of a scorer is not there or lacks its configuration.
    """
    return {name: _tflop_of(name, given.source) for name, given in params.scorers.items()}


def _tflop_of(name: str, source: str) -> float | None:
    """One image and a caption of full length. An oracle runs no network."""
    if name in ORACLES:
        return 0.0
    if name not in BUILT_IN:
        return None
    given = None if source == "hub" else open_source(name, source)
    count = _KINDS.get(name, _clip if name in ("pickscore", "clip") else _hps)
    with torch.device("meta"):
        return count(name, given)


def _clip(name: str, source: Source | None) -> float:
    """Both halves of a CLIP: from its configuration, or of the published one."""
    if source is None:
        return _open_clip("ViT-H-14" if name == "pickscore" else "ViT-L-14", text=True)
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig.from_dict(source.json("config.json"))
    clip = CLIPModel(config)
    tokens = torch.zeros(1, config.text_config.max_position_embeddings, dtype=torch.long)
    pixels = _pixels(config.vision_config.image_size)
    return tflop_of(lambda: clip.get_text_features(input_ids=tokens)) + tflop_of(
        lambda: clip.get_image_features(pixel_values=pixels)
    )


def _aesthetic(_: str, source: Source | None) -> float:
    """The image half alone; the head is a thousandth of it."""
    if source is None:
        return _open_clip("ViT-L-14", text=False)
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    config = CLIPConfig.from_dict(source.json("config.json")).vision_config
    clip, pixels = CLIPVisionModelWithProjection(config), _pixels(config.image_size)
    return tflop_of(lambda: clip(pixel_values=pixels))


def _hps(_: str, source: Source | None) -> float:
    from spin.rewards.hps import build_open_clip

    return _both_halves(build_open_clip(source), text=True)


def _image_reward(_: str, source: Source | None) -> float:
    from spin.rewards.image_reward import MAX_LENGTH, VIT_L_16, RewardBlip, blip_configs

    med: Mapping[str, Any] = MED_CONFIG if source is None else source.json("med_config.json")
    own = source is not None and "vit_config.json" in source.files
    vit: Mapping[str, Any] = source.json("vit_config.json") if source is not None and own else VIT_L_16
    blip = RewardBlip(*blip_configs(med, vit))
    pixels, tokens = _pixels(vit["image_size"]), torch.zeros(1, MAX_LENGTH, dtype=torch.long)
    patches = blip.visual_encoder(pixel_values=pixels).last_hidden_state

    def read() -> object:  # without masks: a tensor on the meta device cannot be asked what it hides
        return blip.text_encoder(input_ids=tokens, encoder_hidden_states=patches, is_decoder=False)

    return tflop_of(lambda: blip.visual_encoder(pixel_values=pixels)) + tflop_of(read)


def _open_clip(architecture: str, text: bool) -> float:
    import open_clip
    from open_clip.model import CLIP

    return _both_halves(CLIP(**open_clip.get_model_config(architecture)), text)


def _both_halves(model: Any, text: bool) -> float:
    size = model.visual.image_size
    pixels = _pixels(int(size[0] if isinstance(size, tuple) else size))
    tokens = torch.zeros(1, int(model.context_length), dtype=torch.long)
    said = tflop_of(lambda: model.encode_text(tokens)) if text else 0.0
    return tflop_of(lambda: model.encode_image(pixels)) + said


def _pixels(side: int) -> Tensor:
    return torch.empty(1, 3, side, side)


_KINDS: dict[str, Callable[[str, Source | None], float]] = {
    "aesthetic": _aesthetic,
    "aesthetic_v1": _aesthetic,
    "image_reward": _image_reward,
}
