import pytest
import torch

from llava_core.model.projector import build_projector
from tests.llava_core.toy import toy_config


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("linear", ["weight", "bias"]),
        ("mlp1x_gelu", ["0.weight", "0.bias"]),
        ("mlp2x_gelu", ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("mlp3x_gelu", ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]),
        ("identity", []),
    ],
)
def test_parameters_have_the_names_of_the_original(kind, names):
    assert list(build_projector(toy_config(projector_type=kind)).state_dict()) == names


def test_features_take_the_width_of_the_language_model():
    assert build_projector(toy_config())(torch.zeros(3, 16, 32)).shape == (3, 16, 48)


def test_the_activation_is_the_exact_gelu():
    projector = build_projector(toy_config())
    features = torch.linspace(-3, 3, 32)[None]
    hidden = projector[0](features)
    by_hand = projector[2](hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    torch.testing.assert_close(projector(features), by_hand)
