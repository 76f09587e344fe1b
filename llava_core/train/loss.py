"""The model as training runs it: a batch of plain tensors in, the sum of its token losses out.

Logits are computed where something is learned and nowhere else; for a vocabulary of 32,000 they are
most of the memory.
"""

from typing import Any

from torch import Tensor, nn

from llava_core.images import Size
from llava_core.model.llava import LlavaModel, Picture
from llava_core.tokens import IGNORE_INDEX
from llava_core.train.rows import Rows, Samples, lay_out, lay_out_trees


class LossModel(nn.Module):
    """A LLaVA model that takes batches and gives losses."""

    def __init__(self, llava: LlavaModel, *, packing: bool, shares_pictures: bool = False) -> None:
        """Wraps a model.

        Args:
            packing: whether samples share rows instead of being padded.
            shares_pictures: whether those that begin alike share their beginning too.
        """
        super().__init__()
        self.llava = llava
        self._packing = packing
        self._shares_pictures = shares_pictures
        self.register_load_state_dict_post_hook(_need_trained_only)  # type: ignore[no-untyped-call]

    @property
    def config(self) -> Any:
        """The language model's, by which transformers sizes DeepSpeed's buckets."""
        return self.llava.language_model.config

    def forward(  # noqa: PLR0913 - what a batch consists of
        self,
        *,
        input_ids: Tensor,
        labels: Tensor,
        lengths: Tensor,
        pixels: Tensor,
        tiles: Tensor,
        sizes: Tensor,
        places: Tensor,
        trees: Tensor,
        shared: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Computes the loss of a batch; see `data.collate.Batch`.

        Returns:
            float32[], the sum of the cross-entropy of all labelled tokens, and int64[], their
            number. A plain tuple, which the wrappers of all engines know.
        """
        counts = lengths.tolist()
        rows = [row[:n] for row, n in zip(input_ids, counts, strict=True)]
        row_labels = [row[:n] for row, n in zip(labels, counts, strict=True)]
        pictures = [
            Picture(part, Size(*size))
            for part, size in zip(pixels.split(tiles.tolist()), sizes.tolist(), strict=True)
        ]
        features = self.llava.encode_pictures(pictures, tiles_at_once=len(pixels))
        seen = [features[i] for i in places]
        samples = Samples(
            embeds=self.llava.embed(rows, seen), labels=self.llava.label(rows, seen, row_labels)
        )
        if self._shares_pictures:
            window = getattr(self.config, "sliding_window", None)
            laid = lay_out_trees(samples, trees=trees, shared=shared, window=window)
        else:
            laid = lay_out(samples, packing=self._packing, flat=self._is_flash())
        # A picture that nothing refers to adds 0, so that every process goes back through the same
        # layers down to the projector. Under ZeRO-3 they would wait for each other for ever. The
        # sum is that of none of its tokens: all together may be infinite in 16 bits.
        for unused in set(range(len(features))) - set(places.tolist()):
            laid = laid._replace(embeds=laid.embeds + features[unused][:0].sum())
        return self._loss(laid)

    def _loss(self, laid: Rows) -> tuple[Tensor, Tensor]:
        language_model = self.llava.language_model
        given = {} if laid.positions is None else {"position_ids": laid.positions}
        hidden = language_model.base_model(
            inputs_embeds=laid.embeds, attention_mask=laid.mask, use_cache=False, **given
        ).last_hidden_state
        is_learned = laid.labels != IGNORE_INDEX
        logits = language_model.get_output_embeddings()(hidden[is_learned])
        total = nn.functional.cross_entropy(
            logits.float(), laid.labels[is_learned], reduction="sum"
        )
        return total, is_learned.sum()

    def _is_flash(self) -> bool:
        kind = self.llava.language_model.config._attn_implementation
        return "flash" in str(kind)


def _need_trained_only(model: nn.Module, incompatible: Any) -> None:
    """Lets a state dict lack what is frozen, which is where the training began."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    # Beside quantized weights lie their scales.
    beside = tuple(f"{name}." for name in frozen)
    missing, unexpected = incompatible
    missing[:] = [name for name in missing if name not in frozen]
    unexpected[:] = [name for name in unexpected if not name.startswith(beside)]
