"""The Python SDK: `Client`, `AsyncClient` and what they give and raise."""

from __future__ import annotations

from shoal.client.aio import AsyncClient
from shoal.client.calls import ModelMetadata, ServerMetadata, TensorMetadata
from shoal.client.errors import ConnectionFailed, UnexpectedAnswer
from shoal.client.inference import Result
from shoal.client.retry import Retry
from shoal.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "ModelMetadata",
    "Result",
    "Retry",
    "ServerMetadata",
    "TensorMetadata",
    "UnexpectedAnswer",
]
