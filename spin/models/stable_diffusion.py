"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, an epsilon or v-prediction UNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from spin.models.conditioning import Conditioning
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.text import token_ids
from spin.runtime.meter import count, count_prediction


@dataclass
class StableDiffusion(LatentDiffusion):
    """CLIP text states into a UNet.

    2.x differs in its configs alone: an OpenCLIP text encoder saved without its last layer, so that its last hidden
    states are the penultimate ones it was trained on, and a scheduler that may say v_prediction.
    """

    family: ClassVar[str] = "stable-diffusion"
    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    parts: ClassVar[Mapping[str, str]] = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
    }
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    denoiser: UNet2DConditionModel
    scheduler_config: dict[str, Any]

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> encoder_hidden_states (B, L, D), padded and truncated to the tokenizer's length."""
        count(len(prompts), "text")
        ids = token_ids(self.tokenizer, prompts, self.tokenizer.model_max_length)
        states = self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state
        return {"encoder_hidden_states": states}

    @staticmethod
    def predict(denoiser: nn.Module, x_t: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction (B, C, H, W); see `LatentDiffusion.predict`."""
        dtype = next(denoiser.parameters()).dtype
        states = conditioning["encoder_hidden_states"].to(dtype)
        prediction: Tensor = denoiser(x_t.to(dtype), times, encoder_hidden_states=states).sample
        count_prediction(denoiser, prediction, states.shape[1])
        return prediction
