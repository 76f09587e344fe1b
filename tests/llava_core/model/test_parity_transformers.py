"""Our model against transformers' LlavaForConditionalGeneration with the same weights."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration
from transformers import LlavaConfig as TransformersConfig

from llava_core.tokens import IMAGE_TOKEN_ID
from tests.llava_core.toy import CLIP, PATCHES, TEXT, toy_model, toy_picture

# A token that no prompt uses, which transformers repeats for every patch.
PLACE = 99


@pytest.fixture(scope="module")
def pair():
    ours = toy_model()
    theirs = LlavaForConditionalGeneration(
        TransformersConfig(
            text_config=LlamaConfig(**TEXT),
            vision_config=CLIPVisionConfig(**CLIP),
            image_token_id=PLACE,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    ).eval()
    theirs.model.vision_tower.load_state_dict(ours.vision_tower.clip.state_dict())
    theirs.model.language_model.load_state_dict(ours.language_model.model.state_dict())
    theirs.lm_head.load_state_dict(ours.language_model.lm_head.state_dict())
    for name, index in (("linear_1", 0), ("linear_2", 2)):
        getattr(theirs.model.multi_modal_projector, name).load_state_dict(
            ours.projector[index].state_dict()
        )
    return ours, theirs


def inputs(seed):
    ids = [1, 5, IMAGE_TOKEN_ID, 9 + seed, 10, 11]
    expanded = [token for i in ids for token in ([PLACE] * PATCHES if i == IMAGE_TOKEN_ID else [i])]
    return torch.tensor(ids), torch.tensor([expanded]), toy_picture(seed)


@pytest.mark.parametrize("seed", range(3))
@torch.inference_mode()
def test_logits_agree(pair, seed):
    ours, theirs = pair
    ids, expanded, picture = inputs(seed)
    expected = theirs(input_ids=expanded, pixel_values=picture.pixels).logits
    torch.testing.assert_close(ours([ids], [picture]).logits, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_loss_agrees(pair):
    ours, theirs = pair
    ids, expanded, picture = inputs(0)
    labels = torch.where(ids == IMAGE_TOKEN_ID, -100, ids)
    expected = theirs(
        input_ids=expanded,
        pixel_values=picture.pixels,
        labels=torch.where(expanded == PLACE, -100, expanded),
    ).loss
    torch.testing.assert_close(
        ours([ids], [picture], labels=[labels]).loss, expected, atol=1e-6, rtol=0
    )
