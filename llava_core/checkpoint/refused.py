"""How classes of transformers report configs that they cannot be made of: in many ways."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from llava_core.errors import CheckpointError, one_line

# A missing field is a KeyError, an unknown name of a type an AttributeError, a size below zero a
# RuntimeError of torch.
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
             StrictDataclassError, TypeError, ValueError)  # fmt: skip
# What fails late where it is not above 0: as a shape, in the midst of a picture.
_SIZES = ("hidden_size", "image_size", "intermediate_size", "num_attention_heads",
          "num_key_value_heads", "patch_size", "vocab_size")  # fmt: skip


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Tells in one line which config no model can be made of; to be held around just that.

    Args:
        what: the beginning of the line, as `PATH is no clip config`.

    Raises:
        CheckpointError: instead of whatever a class raised.
    """
    try:
        yield
    except _REFUSALS as error:
        raise CheckpointError(f"{what}: {one_line(error)}") from error


def check_sizes(config: Any, what: str) -> None:
    """Makes sure that the sizes that a config of transformers says are above 0.

    Args:
        what: as that of `refusing`.

    Raises:
        CheckpointError: names one that is not above 0.
    """
    for name in _SIZES:
        size = getattr(config, name, None)
        if isinstance(size, int) and size < 1:
            raise CheckpointError(f"{what}: {name} is {size}, expected a number above 0")
