"""The composition root: builds an instance from its settings, runs it, ends it in order."""

from __future__ import annotations

from shoal.app.process import serve
from shoal.app.server import App

__all__ = ["App", "serve"]
