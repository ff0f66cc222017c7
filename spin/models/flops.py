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
from spin.models.lora import add_adapter
from spin.params.training import LoraParams
from spin.runtime.flops import TERA, tflop_both_ways, tflop_of

CLIP_TOKENS, T5_TOKENS = 77, 256


@dataclass(frozen=True)
class NetworkCost:
    """Cost of one sample through the denoiser and the autoencoder."""

    parameters: int
    """Of the denoiser, adapters aside."""
    forward: float
    """TFLOP of one prediction."""
    adapted: float
    """TFLOP of one prediction in training: with the adapters, where there are any."""
    backward: float
    """TFLOP of the backward pass, recomputation under gradient checkpointing included. Frozen layers pass a gradient on
    and need none for their own weights."""
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
    tokens: int | None = None,
    lora: LoraParams | None = None,
) -> NetworkCost:
    """Count the cost of a model from its configurations; raises `ModelError` for a denoiser of an unknown kind.

    `tokens` are those of a caption, the published encoders' number where it is not given; with `lora` adapters of that kind
    are trained and all else is frozen.
    """
    # Shapes without data.
    denoiser, vae = build_denoiser(denoiser_config), build_vae(vae_config)
    side = latents_side(vae, resolution)
    inputs = _inputs(denoiser, side, tokens)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    forward = tflop_of(lambda: denoiser(**inputs))

    # One pass each as in training, counted.
    if lora is not None:
        add_adapter(denoiser, lora, 0)
    adapted = tflop_of(lambda: denoiser(**inputs))
    backward = _both_ways(denoiser, inputs, checkpointing) - adapted
    return NetworkCost(
        parameters=parameters,
        forward=forward,
        adapted=adapted,
        backward=backward,
        activations=_saved_bytes(denoiser, inputs, checkpointing) * bytes_per // 4,
        encode=encoding_tflop(vae, resolution),
        decode=decoding_tflop(vae, side),
        latents=int(vae.config.latent_channels) * side**2,
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


def build_vae(config: dict[str, Any]) -> Any:
    """The autoencoder of this configuration on the meta device."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL.from_config(config)


def latents_side(vae: Any, resolution: int) -> int:
    """Side of the latents of a square image with this side in pixels."""
    return int(resolution // 2 ** (len(vae.config.block_out_channels) - 1))


def encoding_tflop(vae: Any, resolution: int) -> float:
    """TFLOP of one square image through the encoder of an autoencoder on the meta device."""
    pixels = torch.empty(1, 3, resolution, resolution, device="meta")
    return tflop_of(lambda: vae.encode(pixels))


def decoding_tflop(vae: Any, side: int) -> float:
    """TFLOP of decoding square latents of this side."""
    latents = torch.empty(1, vae.config.latent_channels, side, side, device="meta")
    return tflop_of(lambda: vae.decode(latents))


def prediction_tflop(
    config: dict[str, Any], side: int, tokens: int, trained: bool, lora: LoraParams | None
) -> float:
    """TFLOP of one prediction from latents of this side and so many tokens, with its backward pass if it is trained.

    What gradient checkpointing computes again is not counted: it is no work of the model.
    """
    denoiser = build_denoiser(config)
    if lora is not None:
        add_adapter(denoiser, lora, 0)
    inputs = _inputs(denoiser, side, tokens)
    return (
        _both_ways(denoiser, inputs, checkpointing=False) if trained else tflop_of(lambda: denoiser(**inputs))
    )


def _inputs(network: Any, side: int, tokens: int | None = None) -> dict[str, Any]:
    """The arguments of one prediction on latents of this side, on the meta device."""
    with torch.device("meta"):
        return _empty_inputs(network, side, tokens)


def _empty_inputs(network: Any, side: int, tokens: int | None) -> dict[str, Any]:
    config = network.config
    x_t, times = torch.empty(1, config.in_channels, side, side), torch.empty(1)
    if type(network).__name__ == "SD3Transformer2DModel":
        return {
            "hidden_states": x_t,
            "timestep": times,
            "encoder_hidden_states": torch.empty(
                1, tokens or CLIP_TOKENS + T5_TOKENS, config.joint_attention_dim
            ),
            "pooled_projections": torch.empty(1, config.pooled_projection_dim),
        }
    states = torch.empty(1, tokens or CLIP_TOKENS, config.cross_attention_dim)
    inputs: dict[str, Any] = {"sample": x_t, "timestep": times, "encoder_hidden_states": states}
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": torch.empty(1, width), "time_ids": torch.empty(1, 6)}
    return inputs


def _text(inputs: dict[str, Any]) -> list[Tensor]:
    added = inputs.get("added_cond_kwargs", {}).get("text_embeds")
    found = [inputs["encoder_hidden_states"], inputs.get("pooled_projections"), added]
    return [tensor for tensor in found if tensor is not None]


def _both_ways(network: Any, inputs: dict[str, Any], checkpointing: bool) -> float:
    """TFLOP of a forward and a backward pass of one sample, recomputation included."""
    if checkpointing:
        network.enable_gradient_checkpointing()
    network.train()
    tflop = tflop_both_ways(lambda: network(**inputs).sample)
    network.zero_grad(set_to_none=True)
    return tflop


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
