"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206): a flow-matching transformer with up to three texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

from spin.errors import ParamsError
from spin.models.conditioning import Conditioning
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.text import penultimate, token_ids
from spin.runtime.meter import count, count_prediction

T5_LENGTH = 256
"""Tokens of the T5 encoder's part of the text, as diffusers' pipeline has it by default."""


@dataclass
class StableDiffusion3(LatentDiffusion):
    """States of two CLIP encoders side by side, then T5's after them, into a multimodal diffusion transformer."""

    family: ClassVar[str] = "stable-diffusion-3"
    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    denoiser_folder: ClassVar[str] = "transformer"
    parts: ClassVar[Mapping[str, str]] = {
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    }
    optional_parts: ClassVar[tuple[str, ...]] = ("text_encoder_3", "tokenizer_3")
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2", "tokenizer_3")
    architecture: ClassVar[tuple[str, ...]] = (
        "in_channels",
        "out_channels",
        "joint_attention_dim",
        "pooled_projection_dim",
        "num_layers",
    )

    vae: AutoencoderKL
    text_encoder: CLIPTextModelWithProjection
    text_encoder_2: CLIPTextModelWithProjection
    text_encoder_3: T5EncoderModel | None
    """Without it, as in diffusers, its part of the text is zeros."""
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    tokenizer_3: Any
    denoiser: SD3Transformer2DModel
    scheduler_config: dict[str, Any]

    @property
    def prediction_type(self) -> str:
        """`flow`."""
        return "flow"

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, H, W) of the latents; raises `ParamsError` if the transformer's patches do not tile them."""
        channels, height, width = super().latent_shape(resolution)
        patch = int(self.denoiser.config.patch_size)
        if height % patch:
            multiple = patch * 2 ** (len(self.vae.config.block_out_channels) - 1)
            raise ParamsError(
                f"resolution must be a multiple of {multiple} for this base, got {resolution}; change it."
            )
        return channels, height, width

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> encoder_hidden_states (B, L + 256, D) and pooled_projections (B, P1 + P2)."""
        count(len(prompts), "text")
        length = self.tokenizer.model_max_length
        first, first_pooled = penultimate(self.text_encoder, self.tokenizer, prompts, length)
        second, second_pooled = penultimate(self.text_encoder_2, self.tokenizer_2, prompts, length)
        clip = torch.cat([first, second], dim=-1)
        width = int(self.denoiser.config.joint_attention_dim)
        states = torch.cat(
            [F.pad(clip, (0, width - clip.shape[-1])), self._t5_states(prompts, width, clip)], 1
        )
        return {
            "encoder_hidden_states": states,
            "pooled_projections": torch.cat([first_pooled, second_pooled], dim=-1),
        }

    def _t5_states(self, prompts: Sequence[str], width: int, like: Tensor) -> Tensor:
        if self.text_encoder_3 is None:
            return like.new_zeros(len(prompts), T5_LENGTH, width)
        ids = token_ids(self.tokenizer_3, prompts, T5_LENGTH)
        states: Tensor = self.text_encoder_3(ids.to(self.text_encoder_3.device)).last_hidden_state
        return states.to(like.dtype)

    @staticmethod
    def predict(denoiser: nn.Module, x_t: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """The transformer's velocity (B, C, H, W); see `LatentDiffusion.predict`."""
        dtype = next(denoiser.parameters()).dtype
        prediction: Tensor = denoiser(
            hidden_states=x_t.to(dtype),
            timestep=times,
            encoder_hidden_states=conditioning["encoder_hidden_states"].to(dtype),
            pooled_projections=conditioning["pooled_projections"].to(dtype),
        ).sample
        count_prediction(denoiser, prediction, conditioning["encoder_hidden_states"].shape[1])
        return prediction
