"""LAION's aesthetic predictors: a rating from 1 to 10 read off CLIP's normalised, projected image embedding.

`aesthetic` is V2 (improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE), which papers mean unless they say
otherwise; `aesthetic_v1` is the first one, a single linear layer. The prompt plays no part.

Folder layout:
    config.json          CLIPConfig of the CLIP whose image half is used (openai/clip-vit-large-patch14)
    model.safetensors    its weights; those of the text half may be there and are not read
    HEAD                 head.safetensors, or the published file under its own name
    scorer.json          optional: {"version": words}
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from spin.errors import ScoreError
from spin.rewards.base import TorchScorer, at_least_float32
from spin.rewards.clip import IGNORED, WEIGHTS
from spin.rewards.heads import head_for
from spin.rewards.preprocess import clip_pixels, stack
from spin.rewards.weights import Source, load_strictly, read_state, weights_sha256, without_weights

TEXT_HALF = ("text_model.", "text_projection.", "logit_scale")
HEADS = {
    "aesthetic": ("head.safetensors", "sac+logos+ava1-l14-linearMSE.pth", "aesthetic-model.pth"),
    "aesthetic_v1": ("head.safetensors", "sa_0_4_vit_l_14_linear.pth"),
}
VERSIONS = {
    "aesthetic": "LAION aesthetic V2 (sac+logos+ava1-l14-linearMSE)",
    "aesthetic_v1": "LAION aesthetic V1 (sa_0_4_vit_l_14_linear)",
}


class AestheticScorer(TorchScorer):
    """head(v / |v|), v the projected image embedding."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype) -> None:
        path, head_path = source.need(*WEIGHTS), source.need(*HEADS[source.scorer])
        sha256, version = weights_sha256(path, head_path), source.version(VERSIONS[source.scorer])
        super().__init__(source.scorer, version, "predicted rating, 1 to 10", sha256, device, dtype)
        config = CLIPConfig.from_dict(source.json("config.json"))
        vision = config.vision_config
        vision.projection_dim = (
            config.projection_dim
        )  # old configurations leave the tower's own at its default
        with without_weights():
            self.clip = CLIPVisionModelWithProjection(vision)
        load_strictly(self.clip, read_state(path), path, (*IGNORED, *TEXT_HALF))
        self.clip.to(device=self.device, dtype=dtype).eval()
        state = read_state(head_path)
        try:
            self.head = head_for(state)
        except KeyError as error:
            raise ScoreError(
                f"{head_path} must be an aesthetic head, it lacks the weights {error}; give the published file."
            ) from None
        load_strictly(self.head, state, head_path)
        self.head.to(device=self.device, dtype=at_least_float32(dtype)).eval()
        self.image_size = int(vision.image_size)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Projected, not normalised image embeddings, (B, D)."""
        pixels = stack([clip_pixels(image, self.image_size) for image in images], self.device, self.dtype)
        features: Tensor = self.clip(pixel_values=pixels).image_embeds
        return features

    def raw(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Predicted ratings, (B,)."""
        features = self.embed_images(images).to(at_least_float32(self.dtype))
        rating: Tensor = self.head(features / features.norm(dim=-1, keepdim=True)).squeeze(-1)
        return rating
