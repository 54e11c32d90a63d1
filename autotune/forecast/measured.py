"""`MeasuredTerms`: what layers were measured to keep and need, for the rows of a case."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotune.forecast import layers
from autotune.forecast.case import Case
from autotune.forecast.formats import AUTOCAST, HALF, SINGLE, Floats, Indices
from search_spaces.columns import Mask
from trials.contract.measured import ATTENTIONS, CHECKPOINTINGS, Bytes, MeasuredLayers, Variant

PRECISION = {HALF: "bf16_pure", SINGLE: "fp32", AUTOCAST: "bf16"}
"""Mode → the precision that was measured for it."""
LIKE = {"sdpa": ("sdpa", "eager"), "windowed": ("windowed", "sdpa", "eager"), "eager": ("eager", "sdpa")}
"""Attention → whose figures to take, the first that the model has."""


@dataclass(frozen=True, eq=False)
class MeasuredTerms:
    """What was measured, in bytes of each row of a case."""

    case: Case
    measured: MeasuredLayers

    @cached_property
    def kept(self) -> Floats:
        """By one layer, its weights that autocast has cast left out: those are counted as copies."""
        return self._of_tokens(tuple((variant.kept,) for variant in self._table), 0) * self._compiled

    @cached_property
    def touched(self) -> Floats:
        """What a layer keeps without checkpointing."""
        without = self._variant - self._variant % len(CHECKPOINTINGS)
        return self._of_tokens(tuple((variant.kept,) for variant in self._table), 0, without)

    def most(self, moments: str, gradients: Mask) -> Floats:
        """Of the moments by that name the largest; `gradients`: where finished ones count."""
        lists: tuple[tuple[Bytes, ...], ...] = tuple(getattr(variant, moments) for variant in self._table)
        trains = ~self.case.is_lora / self.case.tensor
        found = []
        for index in range(max(map(len, lists))):
            chosen = [items[min(index, len(items) - 1)] for items in lists]
            fixed = np.array([item.fixed for item in chosen])[self._variant]
            finished = np.array([item.gradients for item in chosen])[self._variant]
            found.append(self._of_tokens(lists, index) + trains * (fixed + gradients * finished))
        largest: Floats = np.maximum.reduce(np.broadcast_arrays(*found))
        return largest

    def _of_tokens(
        self, lists: tuple[tuple[Bytes, ...], ...], index: int, which: Indices | None = None
    ) -> Floats:
        rows = self._variant if which is None else which
        chosen = [items[min(index, len(items) - 1)] for items in lists]
        bytes_: Floats = np.array([item.per_token for item in chosen])[rows]
        if any(item.per_key for item in chosen):
            bytes_ = bytes_ + np.array([item.per_key for item in chosen])[rows] * self.case.sequence
        return bytes_ * self.case.tokens * self._split

    @cached_property
    def _table(self) -> tuple[Variant, ...]:
        """By mode, attention and checkpointing."""
        had = {
            (variant.precision, variant.attention, variant.checkpointing): variant
            for variant in self.measured.variants
        }
        return tuple(
            next(had[precision, like, kept] for like in LIKE[attention] if (precision, like, kept) in had)
            for precision in PRECISION.values()
            for attention in ATTENTIONS
            for kept in CHECKPOINTINGS
        )

    @cached_property
    def _variant(self) -> Indices:
        """Of each row, its place in the table."""
        case, window = self.case, self.case.shape.sliding_window
        beyond = case.sequence >= (np.inf if window is None else window)
        attention = np.where(
            case.has("attention", "eager"), ATTENTIONS.index("eager"), beyond * ATTENTIONS.index("windowed")
        )
        checkpointing = case.looked_up(
            "activation_checkpointing", {name: code for code, name in enumerate(CHECKPOINTINGS)}
        )
        place = (case.mode * len(ATTENTIONS) + attention) * len(CHECKPOINTINGS) + checkpointing
        return place.astype(np.intp)

    @cached_property
    def _split(self) -> Floats:
        """Share of its bytes that a tensor-parallel rank has: assumed as in the layers that are derived."""
        if (self.case.tensor == 1).all():
            return np.ones(1)
        derived = [_derived(self.case, mode) for mode in PRECISION]
        whole = np.array([kept.gathered / (kept.gathered + kept.split) for kept in derived])[self.case.mode]
        share: Floats = whole + (1 - whole) / self.case.tensor
        return share

    @cached_property
    def _compiled(self) -> Floats:
        """Share of what it keeps that a compiled layer does: assumed as in the layers that are derived."""
        compiled = self.case.has("compile", True)
        if not compiled.any():
            return np.ones(1)
        shape = self.case.shape
        shares = []
        for mode in PRECISION:
            kept, selective = _derived(self.case, mode), layers.selective(shape, mode)
            fused, chosen = layers.compiled(shape, mode), layers.selective_compiled(shape, mode)
            shares += [
                (fused.gathered + fused.split) / (kept.gathered + kept.split),
                (chosen.gathered + chosen.split) / (selective.gathered + selective.split),
                1.0,
            ]
        place = self.case.mode * len(CHECKPOINTINGS) + self._variant % len(CHECKPOINTINGS)
        share: Floats = np.where(compiled, np.array(shares)[place], 1.0)
        return share


def _derived(case: Case, mode: int) -> layers.Kept:
    return layers.attention(case.shape, mode) + layers.feed_forward(case.shape, mode)
