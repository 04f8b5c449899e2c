"""Keys and values of a batch whose rows all end at the same column.

    row 0   . . . a a a a a a|        `.` padding on the left, always zeros, masked out
    row 1   b b b b b b b b b|        `|` the column that the next token of every row takes
    row 2   . . . . . . . c c|

So a decode step writes one column for all rows, and any model that understands left padding can be batched. Storage
grows in blocks of columns and rows; what all rows have as padding is cut off the left without copying.

Shapes: keys and values of a layer are `[row capacity, heads, column capacity, head size]`.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

COLUMN_BLOCK = 128
ROW_BLOCK = 4


def _blocks(count: int, block: int) -> int:
    return -(-count // block) * block


class AlignedLayer(CacheLayerMixin):
    """One layer's storage. `rows` and `length` say how much of it is in use."""

    is_sliding = False  # windows are cut by the mask; every layer keeps all columns
    keys: torch.Tensor  # both exist from the first update on
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.rows, heads, new, _ = key_states.shape
        shape = (self.rows, heads, _blocks(new, COLUMN_BLOCK))
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            self._reallocate(rows=self.keys.shape[0], columns=end, shift=0)
        self.keys[: self.rows, :, self.length : end] = key_states
        self.values[: self.rows, :, self.length : end] = value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def _reallocate(self, *, rows: int, columns: int, shift: int) -> None:
        """Move to larger storage, the content `shift` columns to the right, zeros before it."""
        self.keys, self.values = (
            self._moved(old, rows=rows, columns=columns, shift=shift) for old in (self.keys, self.values)
        )

    def _moved(self, old: torch.Tensor, *, rows: int, columns: int, shift: int) -> torch.Tensor:
        shape = (_blocks(rows, ROW_BLOCK), old.shape[1], _blocks(columns, COLUMN_BLOCK), old.shape[3])
        new = old.new_zeros(shape)
        new[: self.rows, :, shift : shift + self.length] = old[: self.rows, :, : self.length]
        return new

    def join(self, other: AlignedLayer) -> None:
        """Append the rows of `other`; both are aligned at the longer one's end."""
        rows, length = self.rows + other.rows, max(self.length, other.length)
        shift = length - self.length
        if shift or rows > self.keys.shape[0] or length > self.keys.shape[2]:
            self._reallocate(rows=rows, columns=length, shift=shift)
        start = length - other.length
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[self.rows : rows, :, :start] = 0
            mine[self.rows : rows, :, start:length] = theirs[: other.rows, :, : other.length]
        self.rows, self.length = rows, length

    def keep(self, rows: list[int], trim: int) -> None:
        """Drop all rows but these (ascending), and the first `trim` columns."""
        for new, old in enumerate(rows):
            if new != old:
                self.keys[new] = self.keys[old]
                self.values[new] = self.values[old]
        self.rows = len(rows)
        self.keys, self.values = self.keys[:, :, trim:], self.values[:, :, trim:]
        self.length -= trim

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class BatchCache(Cache):
    """All layers of a batch, and each row's padding: the number of its first columns that mean nothing."""

    def __init__(self, layers: int, pads: list[int]) -> None:
        self.aligned = [AlignedLayer() for _ in range(layers)]
        self.pads = pads
        super().__init__(layers=list(self.aligned))

    @property
    def length(self) -> int:
        return self.aligned[0].length

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes in all layers; known after the first forward."""
        return sum(
            states.shape[1] * states.shape[3] * states.element_size()
            for layer in self.aligned
            if layer.is_initialized
            for states in (layer.keys, layer.values)
        )

    def join(self, other: BatchCache) -> None:
        """Append the rows of `other`, which must not be used any more."""
        length = max(self.length, other.length)
        self.pads = [pad + length - self.length for pad in self.pads] + [
            pad + length - other.length for pad in other.pads
        ]
        for mine, theirs in zip(self.aligned, other.aligned, strict=True):
            if mine.is_initialized:  # layers that share another's keys and values have none of their own
                mine.join(theirs)

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these; `rows` is ascending and not empty."""
        pads = [self.pads[row] for row in rows]
        trim = min(pads)
        self.pads = [pad - trim for pad in pads]
        for layer in self.aligned:
            if layer.is_initialized:
                layer.keep(rows, trim)
