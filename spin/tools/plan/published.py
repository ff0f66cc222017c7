"""Configurations of published bases, for a plan on a machine that cannot reach the hub.

Only what differs from the defaults of diffusers' classes stands here. Where the base is a folder, its own files count.
"""

from typing import Any

_SD_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
}
_SD1_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SDXL_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}

CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (_SD1_UNET, _SD_VAE),
    "runwayml/stable-diffusion-v1-5": (_SD1_UNET, _SD_VAE),
    "CompVis/stable-diffusion-v1-4": (_SD1_UNET, _SD_VAE),
    "stabilityai/stable-diffusion-xl-base-1.0": (_SDXL_UNET, _SD_VAE),
}
"""Hub id -> (denoiser, autoencoder)."""

PEAK_TFLOPS = {
    "t4": 65.0,
    "a10": 125.0,
    "rtx3090": 71.0,
    "rtx4090": 165.0,
    "l40s": 362.0,
    "a100": 312.0,
    "h100": 989.0,
    "h200": 989.0,
}
"""fp16 on the T4, bf16 on the others."""

PEAK_FP32_TFLOPS = {
    "t4": 8.1,
    "a10": 31.2,
    "rtx3090": 35.6,
    "rtx4090": 82.6,
    "l40s": 91.6,
    "a100": 19.5,
    "h100": 67.0,
    "h200": 67.0,
}
"""Products in float32 without TF32, which PyTorch leaves off: what the scorers ask for. [recalled] from the makers' data
sheets."""

PAIRS_PER_PROMPT = 851_293 / 58_960
"""Of Pick-a-Pic v2's train split: pairs with a winner, by distinct prompts."""
