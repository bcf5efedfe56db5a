"""Azurite, Microsoft's own emulator of Azure Storage, in a process of its own, filled through
Microsoft's own client."""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.program import running

START_S = 60.0
ACCOUNT = "shoal"
KEY = b64encode(b"secret-of-the-test").decode()

_MAIN = Path(sys.prefix, "azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js")
_LISTENS = re.compile(r"successfully listens on (http://[0-9.:]+)")


class Azurite:
    """url: of the account. For tests that keep to containers of their own."""

    def __init__(self, url: str) -> None:
        from azure.storage.blob import BlobServiceClient

        self.url = f"{url}/{ACCOUNT}"
        self._service = BlobServiceClient(self.url, credential=KEY)

    def container(self, name: str, blobs: Mapping[str, bytes], *, public: bool = False) -> None:
        """A new one. public: anybody may list and read it."""
        from azure.storage.blob import PublicAccess

        self._service.create_container(
            name, public_access=PublicAccess.CONTAINER if public else None)
        for key, value in blobs.items():
            self.put(name, key, value)

    def put(self, container: str, key: str, value: bytes) -> None:
        self._service.get_blob_client(container, key).upload_blob(value, overwrite=True)

    def delete(self, container: str, key: str) -> None:
        self._service.get_blob_client(container, key).delete_blob()

    def signature(self, container: str, *, valid_s: float = 3600) -> str:
        """What lets its bearer list and read the container (SAS). valid_s: may have passed."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        now = datetime.now(UTC)
        return generate_container_sas(
            ACCOUNT, container, KEY, permission=ContainerSasPermissions(read=True, list=True),
            start=now - timedelta(days=1), expiry=now + timedelta(seconds=valid_s))

    def close(self) -> None:
        self._service.close()


@contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    command = ["node", str(_MAIN), "--inMemoryPersistence", "--disableTelemetry", "--silent",
               "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", "0"]
    environ = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with (running(command, folder, _LISTENS, START_S, environ) as url,
          closing(Azurite(url)) as server):
        yield server
