"""A client of the management API, which runs over a fake instance."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from tests.fake_control import FakeControl
from tests.management_app import expose

from shoal.domain.model import ModelSpec
from shoal.management.api import create_app


@pytest.fixture
def control() -> FakeControl:
    return FakeControl(
        ModelSpec(name="churn", uri="/models/churn", format="sklearn", labels={"team": "sea"}),
        ModelSpec(name="price", uri="/models/price.onnx", format="onnx", labels={"team": "land"}),
    )


@pytest.fixture
async def client(control: FakeControl) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(control, expose))
    async with httpx2.AsyncClient(transport=transport, base_url="http://shoal") as client:
        yield client
