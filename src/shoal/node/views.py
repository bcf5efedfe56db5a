"""Moved to `shoal.domain.views`; this name goes soon."""

from shoal.domain.views import *  # noqa: F403
