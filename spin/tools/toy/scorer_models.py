"""The tiny scorers: the real architectures of `spin.rewards` at 32 pixels, with the world's vocabulary.

Each `save_*` writes the folder layout that its scorer's module describes; weights are stored in float16.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from spin.rewards.image_reward import RewardBlip, blip_configs, original_name
from spin.rewards.weights import CARD
from spin.runtime.files import write_json
from spin.tools.toy.tokenizer import MAX_LENGTH, caption_words, vocabulary, write_tokenizer
from spin.toy.world import RESOLUTION

WIDTH, PROJECTION, HEADS = 64, 64, 4
VISION_LAYERS, TEXT_LAYERS, PATCH = 3, 2, 8


def new_clip(hidden_act: str) -> CLIPModel:
    """An untrained Hugging Face CLIP; `gelu` as PickScore's, `quick_gelu` as OpenAI's."""
    size = len(vocabulary()[0])
    shared: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
    }
    shared |= {"hidden_act": hidden_act, "projection_dim": PROJECTION}
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    text = {**shared, **ids, "num_hidden_layers": TEXT_LAYERS, "vocab_size": size}
    vision = {**shared, "num_hidden_layers": VISION_LAYERS, "image_size": RESOLUTION, "patch_size": PATCH}
    config = CLIPConfig(
        text_config={**text, "max_position_embeddings": MAX_LENGTH},
        vision_config=vision,
        projection_dim=PROJECTION,
    )
    return CLIPModel(config)


def open_clip_config() -> dict[str, Any]:
    """open_clip's model_cfg of the tiny HPS."""
    vision = {"image_size": RESOLUTION, "layers": VISION_LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS}
    text = {"context_length": MAX_LENGTH, "vocab_size": len(vocabulary()[0]), "width": WIDTH, "heads": HEADS}
    return {
        "embed_dim": PROJECTION,
        "vision_cfg": {**vision, "patch_size": PATCH},
        "text_cfg": {**text, "layers": TEXT_LAYERS},
    }


def new_open_clip() -> CLIP:
    """An untrained HPS."""
    return CLIP(**open_clip_config())


def med_config() -> dict[str, Any]:
    """The tiny ImageReward's text encoder, in the keys of the published med_config.json."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": TEXT_LAYERS}
    sizes |= {
        "num_attention_heads": HEADS,
        "max_position_embeddings": 64,
        "vocab_size": len(bert_words()) + 2,
    }
    return {**sizes, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "encoder_width": WIDTH}


def vit_config() -> dict[str, int]:
    """The tiny ImageReward's image encoder."""
    sizes = {"image_size": RESOLUTION, "patch_size": PATCH, "hidden_size": WIDTH}
    return {**sizes, "num_layers": VISION_LAYERS, "num_heads": HEADS}


def new_blip() -> RewardBlip:
    """An untrained ImageReward, the linear layers of its encoders drawn with standard deviation 1/sqrt(fan-in).

    BERT's own 0.02 suits 768 features; at 64 the caption hardly moves the first token and nothing is learned.
    """
    blip = RewardBlip(*blip_configs(med_config(), vit_config()))
    for module in [*blip.visual_encoder.modules(), *blip.text_encoder.modules()]:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return blip


def bert_words() -> list[str]:
    """WordPiece vocabulary: the caption words, and letters so that no other word is one unknown token."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *caption_words()]))


def save_clip(clip: CLIPModel, folder: Path, version: str) -> None:
    """Write a CLIPModel folder."""
    write_tokenizer(folder)
    write_json(folder / "config.json", clip.config.to_dict())
    _save_weights(clip, folder)
    write_json(folder / CARD, {"version": version})


def save_aesthetic(clip: CLIPModel, head: nn.Module, folder: Path, version: str) -> None:
    """Write the image half of a CLIP and the head that rates its embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", clip.config.to_dict())
    image_half = {
        k: v for k, v in clip.state_dict().items() if k.startswith(("vision_model.", "visual_projection."))
    }
    _save_state(image_half, folder / "model.safetensors")
    _save_state(head.state_dict(), folder / "head.safetensors")
    write_json(folder / CARD, {"version": version})


def save_open_clip(model: nn.Module, folder: Path, version: str) -> None:
    """Write an open_clip folder."""
    write_tokenizer(folder)
    write_json(folder / "open_clip_config.json", {"model_cfg": open_clip_config()})
    _save_weights(model, folder)
    write_json(folder / CARD, {"version": version})


def save_blip(blip: RewardBlip, folder: Path, version: str, reward_mean: float, reward_std: float) -> None:
    """Write an ImageReward folder, its weights under their original key names."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "med_config.json", med_config())
    write_json(folder / "vit_config.json", vit_config())
    (folder / "vocab.txt").write_text("\n".join(bert_words()) + "\n", encoding="utf-8")
    state = {original_name(key): value for key, value in blip.state_dict().items()}
    _save_state(state, folder / "model.safetensors")
    write_json(folder / CARD, {"version": version, "reward_mean": reward_mean, "reward_std": reward_std})


def _save_weights(module: nn.Module, folder: Path) -> None:
    _save_state(module.state_dict(), folder / "model.safetensors")


def _save_state(state: Mapping[str, Tensor], path: Path) -> None:
    save_file(
        {key: value.to(torch.float16).contiguous() for key, value in state.items()}, path, {"format": "pt"}
    )


def to_open_clip(clip: CLIPModel) -> dict[str, Tensor]:
    """The state dict of the open_clip model that computes what a Hugging Face CLIP with `gelu` does."""
    state = clip.state_dict()
    out = {
        "logit_scale": state["logit_scale"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
    }
    layers = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    layers["self_attn.out_proj"] = "attn.out_proj"
    for kind in ("weight", "bias"):
        out[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        out[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]  # sic, in transformers
        out[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        for tower, prefix, depth in (("text", "", TEXT_LAYERS), ("vision", "visual.", VISION_LAYERS)):
            for n in range(depth):
                theirs, ours = f"{tower}_model.encoder.layers.{n}", f"{prefix}transformer.resblocks.{n}"
                for name, new_name in layers.items():
                    out[f"{ours}.{new_name}.{kind}"] = state[f"{theirs}.{name}.{kind}"]
                qkv = [state[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                out[f"{ours}.attn.in_proj_{kind}"] = torch.cat(qkv)
    return out
