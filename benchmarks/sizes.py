"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

#: How often a ratio below its bound is measured.
ATTEMPTS = 3


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        turns: how often the contestants take turns.
        share: the part of the calls and rows that a benchmark has at its full size.
    """

    turns: int
    share: float

    def of(self, full: int) -> int:
        """So much of it, and five at least."""
        return min(full, max(5, round(full * self.share)))


SIZES = {"small": Size(turns=3, share=0.05), "full": Size(turns=9, share=1.0)}
