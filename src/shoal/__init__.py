"""Shoal serves very many machine-learning models from little memory."""

from __future__ import annotations

__version__ = "0.1.0"
