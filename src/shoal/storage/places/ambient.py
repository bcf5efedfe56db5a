"""Who this process is to an object store without being told: by its environment and its machine.

What obstore finds out itself (roles of pods and machines, Google's and Azure's defaults) stays with
obstore; here is what it does not read, and whether there can be anything to find.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from shoal.storage.places.aws_profile import profile
from shoal.storage.places.fields import fields_of

ENVIRONMENT: Final = "the environment"

METADATA_HOSTS: Final = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Where clouds tell machines who they are."""

_KSERVE_ANONYMOUS: Final = "awsAnonymousCredential"
_METADATA_TIMEOUT_S: Final = 1.0

_TELLING: Final = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE",
           "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
           "AWS_METADATA_ENDPOINT"),
    "gcs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN"),
    "azure": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY",
              "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN",
              "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_ID", "AZURE_STORAGE_CLIENT_ID",
              "AZ_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_MSI_ENDPOINT",
              "AZURE_IDENTITY_ENDPOINT", "AZURE_USE_AZURE_CLI"),
}
_GOOGLE_DEFAULT: Final = "~/.config/gcloud/application_default_credentials.json"


def ambient_values(kind: str) -> dict[str, str]:
    """What the environment says for `kind`, by the names of `fields`. Raises
    InvalidSpecification."""
    environ = {name: value for name, value in os.environ.items()
               if name.isupper() or name == _KSERVE_ANONYMOUS}  # `region` is anybody's
    values = fields_of(kind, environ, ENVIRONMENT)
    values.pop("bucket", None)
    if kind == "s3" and os.environ.get("AWS_ENDPOINT_URL_S3"):
        values["endpoint_url"] = os.environ["AWS_ENDPOINT_URL_S3"]
    if kind == "gcs" and os.environ.get("STORAGE_EMULATOR_HOST"):
        return {"endpoint_url": os.environ["STORAGE_EMULATOR_HOST"], "anonymous": "true"}
    return values


def has_identity(kind: str) -> bool:
    """Is there anything that could tell who this process is? Blocking, for a second at most.

    Asked before obstore is, which waits for a cloud's metadata much longer where there is none.
    Raises InvalidSpecification for a profile that cannot be used.
    """
    if any(os.environ.get(each) for each in _TELLING[kind]):
        return True
    if kind == "s3":
        found, by_boto3 = profile(os.environ)
        if by_boto3 or "access_key_id" in found:
            return True
        if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return False
    if kind == "gcs" and Path(_GOOGLE_DEFAULT).expanduser().exists():
        return True
    try:
        socket.create_connection((METADATA_HOSTS[0], 80), _METADATA_TIMEOUT_S).close()
    except OSError:
        return False
    return True
