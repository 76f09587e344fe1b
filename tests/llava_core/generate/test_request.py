import pytest
from PIL import Image

from llava_core.errors import DataError
from llava_core.generate.request import Request


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a", "images": ["a.png"]}, r"images is \['a.png'\], expected a list of PIL"),
        ({"prompt": "a", "images": "a.png"}, "images is 'a.png', expected a list of PIL pic"),
        (
            {"prompt": "a", "images": Image.new("L", (1, 1))},
            "images is <PIL.Image.Image .*, expected",
        ),
        ({}, "either a prompt or messages"),
        ({"prompt": "a", "messages": []}, "either a prompt or messages"),
        ({"messages": []}, "messages are empty, expected at least one of the user"),
        ({"messages": [{"role": "user"}]}, "message 1 is {'role': 'user'}, expected texts under"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "message 1 is .*, expected texts"),
        ({"prompt": "a", "options": ["", "A"]}, "the option '' adds no tokens of its own"),
        ({"prompt": "a", "options": ["A", "A"]}, "expected all to be different"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens is 0, expected at least 1"),
        ({"prompt": "a", "temperature": -1.0}, "temperature is -1.0, expected 0 or more"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature is nan, expected 0 or more"),
        ({"prompt": "a", "stop": ["", "b"]}, "stop is .*, expected a list of texts that"),
        ({"prompt": "a", "stop": "###"}, "stop is .###., expected a list of texts"),
        ({"prompt": "a", "seed": 2**64}, "seed is 18446744073709551616, expected a number of 64"),
        ({"prompt": "a", "seed": -(2**63) - 1}, "seed is -9223372036854775809, expected"),
        ({"prompt": "a", "top_k": 0}, "top_k is 0, expected at least 1"),
        ({"prompt": "a", "top_p": 0.0}, "top_p is 0.0, expected more than 0"),
        ({"prompt": "a", "num_beams": 0}, "num_beams is 0, expected at least 1"),
        ({"prompt": "a", "num_beams": 4, "temperature": 0.2}, "num_beams is 4 and temperature 0.2"),
        ({"prompt": "a", "num_beams": 2, "options": ["A"]}, "2, and there are options"),
    ],
)
def test_a_contradiction_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        Request(**fields)
