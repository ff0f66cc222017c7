"""FLOPs and activation memory of a model's networks, counted on the meta device: no weights, no GPU, a few seconds.

A network is built from its diffusers configuration and run once on tensors that have a shape and no data.
PyTorch's FlopCounterMode counts a multiply-add as two operations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spin.errors import ModelError
from spin.models.conditioning import Conditioning, square_geometry, to_device
from spin.models.latent_diffusion import LatentDiffusion

TERA = 1e12
CLIP_TOKENS, T5_TOKENS = 77, 256


@dataclass(frozen=True)
class NetworkCost:
    """Cost of one sample through the denoiser and the autoencoder."""

    parameters: int
    """Of the denoiser."""
    forward: float
    """TFLOP of one prediction."""
    backward: float
    """TFLOP of the backward pass, recomputation under gradient checkpointing included."""
    activations: int
    """Bytes kept for the backward pass of one sample, in the precision of the forward pass, at the peak."""
    encode: float
    """TFLOP of one image through the encoder."""
    decode: float
    latents: int
    """Numbers in the latents of one image."""
    text: int
    """Numbers in what the text says to the denoiser, per caption."""


def measure_networks(
    denoiser_config: dict[str, Any],
    vae_config: dict[str, Any],
    resolution: int,
    bytes_per: int,
    checkpointing: bool,
) -> NetworkCost:
    """Count the cost of a model from its configurations; raises `ModelError` for a denoiser of an unknown kind."""
    from diffusers import AutoencoderKL

    # Shapes without data.
    denoiser = build_denoiser(denoiser_config)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(vae_config)
        side = resolution // 2 ** (len(vae.config.block_out_channels) - 1)
        latents = torch.empty(1, vae.config.latent_channels, side, side)
        pixels = torch.empty(1, 3, resolution, resolution)
        inputs = _inputs(denoiser, side)

    # One pass each, counted.
    forward = tflop_of(lambda: denoiser(**inputs))
    backward = _both_ways(denoiser, inputs, checkpointing) - forward
    activations = _saved_bytes(denoiser, inputs, checkpointing) * bytes_per // 4
    return NetworkCost(
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        forward=forward,
        backward=backward,
        activations=activations,
        encode=tflop_of(lambda: vae.encode(pixels)),
        decode=tflop_of(lambda: vae.decode(latents)),
        latents=latents.numel(),
        text=sum(tensor.numel() for tensor in _text(inputs)),
    )


def build_denoiser(config: dict[str, Any]) -> nn.Module:
    """The denoiser of this configuration on the meta device."""
    import diffusers

    kind = config.get("_class_name")
    if kind not in ("UNet2DConditionModel", "SD3Transformer2DModel"):
        raise ModelError(f"the denoiser must be a UNet2DConditionModel or SD3Transformer2DModel, got {kind}.")
    with torch.device("meta"):
        network: nn.Module = getattr(diffusers, kind).from_config(config)
    return network


def flop_of_prediction(diffusion: LatentDiffusion, text: Conditioning, resolution: int) -> int:
    """Floating-point operations of one prediction of one sample, counted without running it; multiply-add = 2.

    `text` is what one caption says to the denoiser, one row.
    """
    config: Any = diffusion.denoiser.config
    network = build_denoiser({**config, "_class_name": type(diffusion.denoiser).__name__})
    told = to_device(diffusion.with_geometry(text, square_geometry(1, resolution)), "meta")
    x_t = torch.empty(1, *diffusion.latent_shape(resolution), device="meta")
    times = torch.zeros(1, device="meta")
    return round(TERA * tflop_of(lambda: diffusion.predict(network, x_t, times, told)))


def _inputs(network: Any, side: int) -> dict[str, Any]:
    """The arguments of one prediction on latents of this side."""
    config = network.config
    x_t, times = torch.empty(1, config.in_channels, side, side), torch.empty(1)
    if type(network).__name__ == "SD3Transformer2DModel":
        return {
            "hidden_states": x_t,
            "timestep": times,
            "encoder_hidden_states": torch.empty(1, CLIP_TOKENS + T5_TOKENS, config.joint_attention_dim),
            "pooled_projections": torch.empty(1, config.pooled_projection_dim),
        }
    states = torch.empty(1, CLIP_TOKENS, config.cross_attention_dim)
    inputs: dict[str, Any] = {"sample": x_t, "timestep": times, "encoder_hidden_states": states}
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": torch.empty(1, width), "time_ids": torch.empty(1, 6)}
    return inputs


def _text(inputs: dict[str, Any]) -> list[Tensor]:
    added = inputs.get("added_cond_kwargs", {}).get("text_embeds")
    found = [inputs["encoder_hidden_states"], inputs.get("pooled_projections"), added]
    return [tensor for tensor in found if tensor is not None]


def tflop_of(run: Callable[[], object]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops()) / TERA


def _both_ways(network: Any, inputs: dict[str, Any], checkpointing: bool) -> float:
    """TFLOP of a forward and a backward pass of one sample, recomputation included."""
    from torch.utils.flop_counter import FlopCounterMode

    if checkpointing:
        network.enable_gradient_checkpointing()
    network.train()
    with FlopCounterMode(display=False) as counter:
        network(**inputs).sample.sum().backward()
    network.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / TERA


def _saved_bytes(network: nn.Module, inputs: dict[str, Any], checkpointing: bool) -> int:
    """Bytes that autograd keeps at the peak, weights aside: every saved tensor once, in fp32.

    Under gradient checkpointing only the inputs of the checkpointed blocks stay, and the largest block is made again.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address could be given out again
    largest_block = 0

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    def checkpointed(block: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal largest_block, kept
        for argument in arguments:
            if isinstance(argument, Tensor):
                keep(argument)
        outside, kept = kept, {}
        result = block(*arguments, **options)
        largest_block, kept = max(largest_block, sum(kept.values())), outside
        return result

    if checkpointing:
        network.enable_gradient_checkpointing(checkpointed)  # type: ignore[operator]
    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(**inputs)
    return sum(kept.values()) + largest_block
