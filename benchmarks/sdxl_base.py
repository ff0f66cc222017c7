"""Stable Diffusion XL's architecture with random weights, laid out as the hub has it."""

from pathlib import Path
from typing import Any

UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""As published, where it differs from the defaults of diffusers."""
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
TEXT_1: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
TEXT_2: dict[str, Any] = {
    **TEXT_1,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}


def build_base(folder: Path) -> None:
    """Save the architecture with random weights in diffusers layout, in fp16 as it is published."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from spin.tools.toy.tokenizer import write_tokenizer

    torch.manual_seed(0)
    write_tokenizer(folder.parent / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder.parent / "tokenizer", model_max_length=77)
    StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(**UNET).half(),
        vae=AutoencoderKL(**VAE).half(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT_1)).half(),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2)).half(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
