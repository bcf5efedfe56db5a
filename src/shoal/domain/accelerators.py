"""Accelerators as pools of memory: what an instance has of them, and what is free there.

A pool is named as frameworks name the device: its kind, a colon, its number (`cuda:0`).
"""

from __future__ import annotations

import msgspec


class PoolBudget(msgspec.Struct, frozen=True):
    """budget_bytes: that models may take of the memory of this accelerator."""

    name: str
    budget_bytes: int


class PoolFigures(msgspec.Struct, frozen=True, omit_defaults=True):
    """free_bytes: of the budget, beside what is loaded and reserved. fill_bytes: of them, what may
    be filled with what nobody asked for. used_bytes: of copies."""

    name: str
    free_bytes: int = 0
    fill_bytes: int = 0
    used_bytes: int = 0


def kind_of(pool: str) -> str:
    """The kind of accelerator, such as `cuda`."""
    return pool.partition(":")[0]
