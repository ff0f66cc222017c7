"""Stable Diffusion 1.5's architecture with random weights, laid out as the hub has it; or a tiny one of the same shape."""

from pathlib import Path
from typing import Any

from spin.runtime.files import write_json

PUBLISHED: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
}
"""Configs of Stable Diffusion 1.5 as published, where they differ from the defaults of diffusers and transformers."""
TINY: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "attention_head_dim": 2},
    "vae": {"block_out_channels": [4, 4, 8, 8], "norm_num_groups": 4},
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}


def build_base(folder: Path, tiny: bool) -> None:
    """Save the architecture with random weights in diffusers layout, in fp16 as much as is published."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from spin.tools.toy.tokenizer import write_tokenizer

    configs = {part: {**PUBLISHED[part], **(TINY[part] if tiny else {})} for part in PUBLISHED}
    if tiny:
        configs["unet"]["cross_attention_dim"] = TINY["text_encoder"]["hidden_size"]
    torch.manual_seed(0)
    write_tokenizer(folder.parent / "tokenizer")
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(**configs["unet"]).half(),
        vae=AutoencoderKL(**configs["vae"]).half(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).half(),
        tokenizer=CLIPTokenizer.from_pretrained(folder.parent / "tokenizer", model_max_length=77),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    counts = {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in configs}
    write_json(folder.parent / "parameters.json", counts)
