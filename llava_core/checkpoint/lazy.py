"""Tensors that are computed when they are read, so that a whole model is never held at once."""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, some of them changed at every reading; nothing is kept.

    A change keeps the shape, which can therefore be known without computing: see `outline`.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], changes: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> None:
        """Lays changes over tensors.

        Args:
            changes: name of a tensor -> what makes the changed one of it.
        """
        self._tensors = tensors
        self._changes = changes

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        change = self._changes.get(name)
        return change(tensor) if change else tensor

    def __contains__(self, name: object) -> bool:
        # Mapping's own would compute the tensor.
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def unchanged(self, name: str) -> Tensor:
        """The tensor below a change."""
        return outline(self._tensors, name)


def outline(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor with the shape of `tensors[name]` and no promise of its values, uncomputed."""
    return tensors.unchanged(name) if isinstance(tensors, LazyTensors) else tensors[name]
