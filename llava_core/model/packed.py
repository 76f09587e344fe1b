"""Linear layers of a model that only computes, on a CPU: by oneDNN, from weights laid out for it.

PyTorch gives products in float32 to MKL, which on AMD's processors leaves AVX-512 aside, and reads
weights as they are: measured on one core of an EPYC, 110 GFLOP/s instead of 260. Results differ in
the last places, as they do between any two machines.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn

# Rows that the layout is best for; it serves any number.
_ROWS = 256
# oneDNN makes a kernel for each number of rows and keeps 1,024 of them, up to 100 KB each; of those
# that one batch takes, few come again in the next.
_KERNELS_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"


class PackedLinear(nn.Module):
    """An `nn.Linear` in float32 that computes from another layout of its weight."""

    def __init__(self, linear: nn.Linear) -> None:
        """Takes over the weight."""
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)

    @property
    def weight(self) -> Tensor:
        """A copy in the usual layout, float32[out_features, in_features]; writing to it is lost."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def forward(self, hidden: Tensor) -> Tensor:
        """float32[..., in_features] to float32[..., out_features]."""
        if not hidden.numel():
            return hidden.new_empty(*hidden.shape[:-1], self.out_features)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden, self._packed, self.bias, "none", [], ""
        )
        return result

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight


def can_pack() -> bool:
    """Whether this machine gains by it."""
    is_available = torch.backends.mkldnn.is_available()
    return is_available and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def pack_linears(model: nn.Module) -> None:
    """Replaces every linear layer below a module, one after the other: memory stays as it was.

    What else there is, is copied, so that nothing of the model is part of a mapped file any more.

    Args:
        model: in float32 on a CPU, not to be trained any more; its weights can still be read.
    """
    # Is read when the first weight is laid out.
    os.environ.setdefault(*_KERNELS_KEPT)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))
    for tensor in (*model.parameters(), *model.buffers()):
        # One that stays in the file would keep all of it, which is the weights a second time.
        tensor.data = tensor.data.clone()
