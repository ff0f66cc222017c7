"""Tiny models of the other families with random weights, of the real classes, in diffusers layout: 32x32 pixels."""

from pathlib import Path
from typing import Any

import torch

from spin.tools.toy.base import load_world_tokenizer, new_scheduler
from spin.tools.toy.tokenizer import MAX_LENGTH, caption_words, vocabulary


def _text_config(width: int, projection: int, **changes: Any) -> Any:
    from transformers import CLIPTextConfig

    tokens, _ = vocabulary()
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=projection,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        **changes,
    )


def _vae(latent_channels: int, **changes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=32,
        **changes,
    )


def _unet(cross_attention_dim: int, **changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "use_linear_projection": True,  # as in SD 2.x and SDXL
    }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=4,
        **(settings | changes),
    )


def write_tiny_sd2(folder: Path) -> None:
    """Stable Diffusion 2.1: v-prediction, OpenCLIP's activation, heads of one width at every level."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(2)
    StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text_config(16, 16, hidden_act="gelu")),
        tokenizer=load_world_tokenizer(folder.parent / "tokenizer-source"),
        unet=_unet(16, attention_head_dim=[2, 4]),
        scheduler=DDIMScheduler.from_config(new_scheduler().config, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def write_tiny_sdxl(folder: Path, force_zeros_for_empty_prompt: bool = True, seed: int = 3) -> None:
    """Stable Diffusion XL: two text encoders of different widths, sizes told, an Euler scheduler as published."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    tokenizer = load_world_tokenizer(folder.parent / "tokenizer-source")
    StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_text_config(16, 16)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(24, 20, hidden_act="gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            40,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    ).save_pretrained(folder)


def write_tiny_sd3(folder: Path, t5: bool = True, shift: float = 3.0) -> None:
    """Stable Diffusion 3: a multimodal transformer on 16 latent channels, with or without its third text encoder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(4)
    tokenizer = load_world_tokenizer(folder.parent / "tokenizer-source")
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -3.0) for word in caption_words())]
    t5_config = T5Config(
        vocab_size=len(words),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=12 + 10,
            pos_embed_max_size=16,
        ),
        vae=_vae(
            16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=CLIPTextModelWithProjection(_text_config(16, 12)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(12, 10, hidden_act="gelu")),
        text_encoder_3=T5EncoderModel(t5_config) if t5 else None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=T5Tokenizer(vocab=words, extra_ids=0) if t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
    ).save_pretrained(folder)


WRITERS = {"sd2": write_tiny_sd2, "sdxl": write_tiny_sdxl, "sd3": write_tiny_sd3}
