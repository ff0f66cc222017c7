"""A transformers CLIP text encoder in OpenCLIP's layout, which SD 2.x and SDXL's second encoder have in a single file.

OpenCLIP keeps query, key and value of a layer in one matrix, stacked in that order, and its text projection transposed.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_IN_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_STACKED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def openclip_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and stack the tensors of a text encoder; raises `KeyError` for one that OpenCLIP has no place for."""
    own = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    tensors: dict[str, Tensor] = {}
    for name, tensor in own.items():
        layer = _LAYER.fullmatch(name)
        if name == "text_projection.weight":
            tensors["text_projection"] = tensor.T
        elif layer is None:
            tensors[_ENDS[name]] = tensor
        elif layer[2] not in _STACKED:
            tensors[f"transformer.resblocks.{layer[1]}.{_IN_LAYER[layer[2]]}.{layer[3]}"] = tensor
        elif layer[2] == _STACKED[0]:
            thirds = [own[f"encoder.layers.{layer[1]}.{third}.{layer[3]}"] for third in _STACKED]
            tensors[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(thirds)
    return tensors
