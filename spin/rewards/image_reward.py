"""ImageReward-v1.0: BLIP's image encoder, its text encoder attending to the image, and an affine head on [CLS].

Xu et al. 2023, arXiv:2304.05977. The checkpoint keeps its original key names; `rename` maps them into the modules
of transformers. The caption keeps its first token [CLS]: BLIP's usual [ENC] is not put in its place.

Folder layout:
    med_config.json      BertConfig of the text encoder, as published
    vit_config.json      {"image_size", "patch_size", "hidden_size", "num_layers", "num_heads"}; absent: ViT-L/16, 224
    ImageReward.pt       or model.safetensors, original key names
    vocab.txt            WordPiece of bert-base-uncased; [DEC] and [ENC] are added after it
    scorer.json          optional: {"version": words, "reward_mean": float, "reward_std": float}
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from spin.rewards.base import TorchScorer, at_least_float32
from spin.rewards.heads import AffineMlp
from spin.rewards.preprocess import image_reward_pixels, stack
from spin.rewards.weights import Source, load_strictly, read_state, weights_sha256, without_weights

REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072
"""Of the published model's rewards, from its code."""
MAX_LENGTH = 35
HEAD_WIDTHS = (1024, 128, 64, 16)
VIT_L_16 = {"image_size": 224, "patch_size": 16, "hidden_size": 1024, "num_layers": 24, "num_heads": 16}
IGNORED = ("blip.vision_proj.", "blip.text_proj.", "text_encoder.embeddings.position_ids")
"""In the checkpoint, not in the score: BLIP's contrastive projections and a buffer."""

_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


def rename(key: str) -> str:
    """Map a checkpoint's key to its place in `RewardBlip`; keys that have none come back as they are."""
    if key.startswith("blip.text_encoder."):
        return key.replace("blip.text_encoder.", "text_encoder.", 1)
    if key.startswith("blip.visual_encoder."):
        inner = key.removeprefix("blip.visual_encoder.")
        for pattern, replacement in _VISION:
            inner, hits = re.subn(pattern, replacement, inner)
            if hits:
                return f"visual_encoder.{inner}"
    return key


def original_name(key: str) -> str:
    """The inverse of `rename`, for writing a checkpoint of this layout."""
    if key.startswith("text_encoder."):
        return f"blip.{key}"
    if key.startswith("visual_encoder."):
        inner = key.removeprefix("visual_encoder.")
        inner = re.sub(r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2.", inner)
        inner = re.sub(r"^encoder\.layers\.(\d+)\.self_attn\.projection\.", r"blocks.\1.attn.proj.", inner)
        inner = re.sub(r"^encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"blocks.\1.attn.qkv.", inner)
        inner = re.sub(r"^encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp.", inner)
        inner = inner.replace("embeddings.class_embedding", "cls_token")
        inner = inner.replace("embeddings.position_embedding", "pos_embed")
        inner = inner.replace("embeddings.patch_embedding.", "patch_embed.proj.")
        inner = inner.replace("post_layernorm.", "norm.")
        return f"blip.visual_encoder.{inner}"
    return key


class RewardBlip(nn.Module):
    """The network: pixels and token ids to one number before normalisation."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        super().__init__()
        self.visual_encoder = BlipVisionModel(vision)
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = AffineMlp(int(text.hidden_size), HEAD_WIDTHS)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, 3, S, S), (B, L), (B, L) -> (B,). Every patch is attended to; padding tokens are not."""
        patches = self.visual_encoder(pixel_values=pixel_values).last_hidden_state
        hidden = self.text_encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
            is_decoder=False,
        ).last_hidden_state
        first = hidden[:, 0]
        reward: Tensor = self.mlp(first.to(self.mlp.dtype)).squeeze(-1)
        return reward


def blip_configs(med: Mapping[str, Any], vit: Mapping[str, Any]) -> tuple[BlipVisionConfig, BlipTextConfig]:
    """Configurations of the two encoders from the published med_config.json and a vit_config.json."""
    vision = BlipVisionConfig(
        hidden_size=vit["hidden_size"],
        intermediate_size=4 * vit["hidden_size"],
        num_hidden_layers=vit["num_layers"],
        num_attention_heads=vit["num_heads"],
        image_size=vit["image_size"],
        patch_size=vit["patch_size"],
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=med["vocab_size"],
        hidden_size=med["hidden_size"],
        encoder_hidden_size=vit["hidden_size"],
        num_hidden_layers=med["num_hidden_layers"],
        num_attention_heads=med["num_attention_heads"],
        intermediate_size=med["intermediate_size"],
        max_position_embeddings=med["max_position_embeddings"],
        hidden_act=med["hidden_act"],
        layer_norm_eps=med["layer_norm_eps"],
        pad_token_id=med["pad_token_id"],
        bos_token_id=None,  # BLIP's defaults are ids of the full vocabulary, which this use never reads
        eos_token_id=None,
        sep_token_id=None,
        is_decoder=True,  # builds the cross-attention; forward is called as an encoder
    )
    return vision, text


class ImageRewardScorer(TorchScorer):
    """(head - mean) / std, about N(0, 1) over the published model's training images."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype) -> None:
        path = source.need("model.safetensors", "ImageReward.pt")
        version, scale = source.version("ImageReward v1.0"), "(reward - mean) / std"
        super().__init__(source.scorer, version, scale, weights_sha256(path), device, dtype)
        vit = source.json("vit_config.json") if "vit_config.json" in source.files else VIT_L_16
        with without_weights():
            self.blip = RewardBlip(*blip_configs(source.json("med_config.json"), vit))
        state = {rename(key): value for key, value in read_state(path).items()}
        load_strictly(self.blip, state, path, IGNORED)
        self.blip.to(device=self.device, dtype=dtype).eval()
        self.blip.mlp.to(at_least_float32(dtype))
        self.image_size = int(vit["image_size"])
        card = source.card()
        self.mean = float(card.get("reward_mean", REWARD_MEAN))
        self.std = float(card.get("reward_std", REWARD_STD))
        self.tokenizer = bert_tokenizer(source)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, (B, 35) each; longer captions are cut."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        return tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)

    def raw(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Normalised rewards, (B,)."""
        pixels = stack(
            [image_reward_pixels(image, self.image_size) for image in images], self.device, self.dtype
        )
        reward: Tensor = self.blip(pixels, *self.tokenize(prompts))
        return (reward - self.mean) / self.std


def bert_tokenizer(source: Source) -> BertTokenizer:
    """WordPiece from vocab.txt with BLIP's two added tokens, which no caption uses."""
    words = source.need("vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_tokens(["[ENC]"], special_tokens=True)
    return tokenizer
