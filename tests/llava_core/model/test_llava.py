import pytest
import torch

from llava_core.errors import DataError
from llava_core.model.llava import causal_loss
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID
from tests.llava_core.toy import PATCHES, toy_config, toy_model, toy_picture

ROWS = [torch.tensor([1, 5, IMAGE_TOKEN_ID, 9, 10]), torch.tensor([1, 6, 7])]


def test_features_stand_where_the_image_token_was():
    model = toy_model()
    features = model.encode_pictures([toy_picture(0)])
    embeds = model.splice(ROWS[:1], features).embeds[0]
    torch.testing.assert_close(embeds[2 : 2 + PATCHES], features[0])
    torch.testing.assert_close(embeds[2 + PATCHES :], model.embedding(torch.tensor([9, 10])))


def test_rows_are_padded_on_the_right():
    model = toy_model()
    batch = model.splice(ROWS, model.encode_pictures([toy_picture(0)]))
    assert batch.mask.sum(dim=1).tolist() == [4 + PATCHES, 3]
    assert batch.embeds[1, 3:].abs().max() == 0


def test_pictures_and_padding_are_not_labelled():
    model = toy_model()
    batch = model.splice(ROWS, model.encode_pictures([toy_picture(0)]), labels=ROWS)
    assert (batch.labels[0, 2 : 2 + PATCHES] == IGNORE_INDEX).all()
    assert batch.labels[0, 2 + PATCHES :].tolist() == [9, 10]
    assert batch.labels[1, 3:].unique().tolist() == [IGNORE_INDEX]


def test_a_row_without_picture_takes_none():
    model = toy_model()
    features = model.encode_pictures([toy_picture(0)])
    first = model.splice(ROWS, features).embeds[0]
    second = model.splice(ROWS[::-1], features).embeds[1]
    torch.testing.assert_close(first, second)


def test_rows_are_cut_at_the_limit():
    model = toy_model(toy_config(max_length=10))
    assert model.splice(ROWS, model.encode_pictures([toy_picture(0)])).embeds.shape[1] == 10


@pytest.mark.parametrize("num_pictures", [0, 2])
def test_another_number_of_pictures_is_refused(num_pictures):
    model = toy_model()
    features = model.encode_pictures([toy_picture(i) for i in range(num_pictures)])
    with pytest.raises(
        DataError, match=f"1 places for pictures, {num_pictures} pictures were given"
    ):
        model.splice(ROWS, features)


@torch.inference_mode()
def test_a_row_has_the_same_logits_in_a_batch_and_alone():
    model = toy_model()
    together = model(ROWS, [toy_picture(0)])
    alone = model(ROWS[1:], [])
    torch.testing.assert_close(together.logits[1, :3], alone.logits[0], atol=1e-5, rtol=1e-5)


def test_the_loss_is_that_of_the_labelled_tokens():
    logits = torch.randn(1, 4, 7)
    labels = torch.tensor([[IGNORE_INDEX, 3, IGNORE_INDEX, 5]])
    by_hand = -(logits[0, 0].log_softmax(-1)[3] + logits[0, 2].log_softmax(-1)[5]) / 2
    torch.testing.assert_close(causal_loss(logits, labels), by_hand)


def test_gradients_reach_the_projector():
    model = toy_model()
    output = model(ROWS, [toy_picture(0)], labels=ROWS)
    output.loss.backward()
    assert model.projector[0].weight.grad.abs().sum() > 0


def test_tiles_of_several_pictures_go_through_the_tower_together():
    config = toy_config(
        image_aspect_ratio="anyres", grid_pinpoints=[[28, 56], [56, 28]], projector_type="linear"
    )
    model = toy_model(config)
    pictures = [toy_picture(0, tiles=3, size=(60, 28)), toy_picture(1, tiles=3, size=(28, 60))]
    together = model.encode_pictures(pictures)
    for picture, features in zip(pictures, together, strict=True):
        assert features.shape == (3 * PATCHES, 48)
        torch.testing.assert_close(model.encode_pictures([picture])[0], features)
