"""At real size the reward models have the keys and shapes of the published weights."""

import torch

from tests.rewards.originals import needs_originals, real_size_keys

pytestmark = needs_originals


def test_hps_at_real_size_has_the_published_keys_and_shapes() -> None:
    from spin.rewards.hps import build_open_clip

    with torch.device("meta"):
        model = build_open_clip(None)
    got = {key: str(tuple(value.shape)) for key, value in model.state_dict().items()}
    assert got == real_size_keys("hpsv2")


def test_image_reward_at_real_size_has_the_published_keys_and_shapes() -> None:
    from spin.rewards import image_reward

    med = {"vocab_size": 30524, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    med |= {"intermediate_size": 3072, "max_position_embeddings": 512, "pad_token_id": 0}
    vision, text = image_reward.blip_configs(
        {**med, "hidden_act": "gelu", "layer_norm_eps": 1e-12}, image_reward.VIT_L_16
    )
    with torch.device("meta"):
        model = image_reward.RewardBlip(vision, text)
    want = {
        image_reward.rename(key): shape
        for key, shape in real_size_keys("imagereward").items()
        if not key.startswith(("blip.vision_proj.", "blip.text_proj.")) and not key.endswith("position_ids")
    }
    assert {key: str(tuple(value.shape)) for key, value in model.state_dict().items()} == want
    assert all(image_reward.rename(image_reward.original_name(key)) == key for key in model.state_dict())
