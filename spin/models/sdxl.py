"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two text encoders, and a UNet that is told image sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from spin.models.conditioning import Conditioning
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.text import mask_empty, penultimate
from spin.runtime.meter import count, count_prediction


@dataclass
class StableDiffusionXL(LatentDiffusion):
    """States of two CLIP encoders side by side, the second one's pooled embedding, and the geometry of the image."""

    family: ClassVar[str] = "stable-diffusion-xl"
    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    parts: ClassVar[Mapping[str, str]] = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
    }
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    architecture: ClassVar[tuple[str, ...]] = (
        "in_channels",
        "out_channels",
        "cross_attention_dim",
        "addition_embed_type",
        "projection_class_embeddings_input_dim",
    )

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    denoiser: UNet2DConditionModel
    scheduler_config: dict[str, Any]
    force_zeros_for_empty_prompt: bool
    """Of model_index.json: the empty prompt is all zeros, as the base was trained to be unconditional.

    diffusers' pipeline does so for the branch without a prompt. Here it holds for the empty caption wherever it stands:
    in that branch when sampling, and for the captions dropped in training, so that what is trained is what is drawn.
    """

    @classmethod
    def settings(cls, index: Mapping[str, Any]) -> dict[str, Any]:
        """Whether the empty prompt is all zeros."""
        return {"force_zeros_for_empty_prompt": bool(index.get("force_zeros_for_empty_prompt", True))}

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> encoder_hidden_states (B, L, D1 + D2) and text_embeds (B, P)."""
        count(len(prompts), "text")
        length = self.tokenizer.model_max_length
        first, _ = penultimate(self.text_encoder, self.tokenizer, prompts, length)
        second, pooled = penultimate(
            self.text_encoder_2, self.tokenizer_2, prompts, self.tokenizer_2.model_max_length
        )
        states = torch.cat([first, second], dim=-1)
        if self.force_zeros_for_empty_prompt:
            states, pooled = mask_empty(states, prompts), mask_empty(pooled, prompts)
        return {"encoder_hidden_states": states, "text_embeds": pooled}

    def with_geometry(self, text: Conditioning, geometry: Tensor) -> Conditioning:
        """Add time_ids (B, 6): original size, crop corner, target size, rows before columns, in pixels."""
        return {**text, "time_ids": geometry}

    @staticmethod
    def predict(denoiser: nn.Module, x_t: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction (B, C, H, W); see `LatentDiffusion.predict`.

        The sizes stay in fp32, in which the UNet embeds them: bf16 would round 1,023 pixels to 1,024.
        """
        dtype = next(denoiser.parameters()).dtype
        prediction: Tensor = denoiser(
            x_t.to(dtype),
            times,
            encoder_hidden_states=conditioning["encoder_hidden_states"].to(dtype),
            added_cond_kwargs={
                "text_embeds": conditioning["text_embeds"].to(dtype),
                "time_ids": conditioning["time_ids"].float(),
            },
        ).sample
        count_prediction(denoiser, prediction, conditioning["encoder_hidden_states"].shape[1])
        return prediction
