"""Prompts through text encoders, as diffusers' pipelines take them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def token_ids(tokenizer: Any, prompts: Sequence[str], length: int) -> Tensor:
    """Prompts -> token ids (B, length), padded and truncated."""
    batch = tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


def penultimate(encoder: Any, tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Prompts -> hidden states before a CLIP encoder's last layer (B, length, D), and its pooled output (B, P).

    The pooled output is the projected `text_embeds` of an encoder that has a projection, else `last_hidden_state`
    (B, length, D), which no family here uses.
    """
    ids = token_ids(tokenizer, prompts, length).to(encoder.device)
    output = encoder(ids, output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def mask_empty(tensor: Tensor, prompts: Sequence[str]) -> Tensor:
    """Set the rows of empty prompts to zero: (B, ...) -> (B, ...)."""
    written = torch.tensor([bool(prompt) for prompt in prompts], device=tensor.device)
    return tensor * written.reshape(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype)
