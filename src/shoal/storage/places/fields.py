"""Which fields credentials of each type have, and what KServe and ModelMesh call them.

Turns one JSON object of a `storage-config`, or a KServe secret, into the names used here. Knows
neither files nor places.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from shoal.domain.errors import InvalidSpecification

_ANNOTATION: Final = "serving.kserve.io/"

_TYPES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "s3": {
        "access_key_id": ("AWS_ACCESS_KEY_ID", "aws_access_key_id"),
        "secret_access_key": ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"),
        "session_token": ("AWS_SESSION_TOKEN", "aws_session_token"),
        "endpoint_url": ("s3-endpoint", "AWS_ENDPOINT_URL", "S3_ENDPOINT", "endpoint"),
        "region": ("s3-region", "AWS_REGION", "AWS_DEFAULT_REGION"),
        "bucket": ("default_bucket",),
        "certificate": (),
        "ca_bundle": ("s3-cabundle", "cabundle", "AWS_CA_BUNDLE"),
        "verify_ssl": ("s3-verifyssl", "S3_VERIFY_SSL"),
        "use_https": ("s3-usehttps", "S3_USE_HTTPS"),
        "virtual_host": ("s3-usevirtualbucket", "S3_USER_VIRTUAL_BUCKET"),
        "accelerate": ("s3-useaccelerate", "S3_USE_ACCELERATE"),
        "anonymous": ("s3-useanoncredential", "AWS_ANONYMOUS_CREDENTIAL",
                      "awsAnonymousCredential", "AWS_SKIP_SIGNATURE"),
    },
    "gcs": {
        "service_account": ("gcloud-application-credentials.json",),
        "private_key": (),
        "private_key_id": (),
        "client_email": (),
        "token_uri": (),
        "bucket": ("default_bucket",),
        "endpoint_url": (),
        "anonymous": (),
    },
    "azure": {
        "account_name": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
        "account_key": ("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        "connection_string": ("AZURE_STORAGE_CONNECTION_STRING",),
        "sas_token": ("AZURE_STORAGE_SAS_TOKEN",),
        "client_id": ("AZ_CLIENT_ID", "AZURE_CLIENT_ID"),
        "client_secret": ("AZ_CLIENT_SECRET", "AZURE_CLIENT_SECRET"),
        "tenant_id": ("AZ_TENANT_ID", "AZURE_TENANT_ID"),
        "bucket": ("container", "default_container"),
        "endpoint_url": (),
        "anonymous": (),
    },
    "http": {
        "host": ("https-host", "url"),
        "headers": (),
        "certificate": (),
        "ca_bundle": (),
        "client_certificate": (),
        "client_key": (),
    },
    "hf": {
        "token": ("HF_TOKEN",),
        "endpoint_url": ("HF_ENDPOINT",),
        "certificate": (),
        "ca_bundle": (),
    },
    "oci": {
        "host": ("registry",),
        "username": (),
        "password": (),
        "token": (),
        "certificate": (),
        "ca_bundle": (),
    },
    "git": {
        "host": (),
        "username": (),
        "password": (),
        "token": (),
        "certificate": (),
        "ca_bundle": (),
    },
    "mlflow": {
        "tracking_uri": ("MLFLOW_TRACKING_URI",),
        "username": ("MLFLOW_TRACKING_USERNAME",),
        "password": ("MLFLOW_TRACKING_PASSWORD",),
        "token": ("MLFLOW_TRACKING_TOKEN",),
        "certificate": (),
        "ca_bundle": ("MLFLOW_TRACKING_SERVER_CERT_PATH",),
    },
}

TYPES: Final = tuple(_TYPES)

_TYPE_ALIASES: Final = {"gs": "gcs", "google": "gcs", "az": "azure", "https": "http",
                        "huggingface": "hf"}

# By what a KServe secret, which names no type, tells what it is for; also the keys that make a
# whole file or folder one such secret.
_TELLING: Final = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gcs": ("gcloud-application-credentials.json",),
    "azure": ("AZ_CLIENT_ID", "AZ_CLIENT_SECRET", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET",
              "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN"),
    "http": ("https-host",),
    "hf": ("HF_TOKEN",),
    "mlflow": ("MLFLOW_TRACKING_URI",),
}

_TOGETHER: Final = {
    "s3": (("access_key_id", "secret_access_key"), ("secret_access_key", "access_key_id")),
    "gcs": (("private_key", "client_email"),),
    "azure": (("client_secret", "client_id", "tenant_id"),),
    "http": (("client_certificate", "client_key"),),
    "mlflow": (("username", "password"), ("password", "username")),
}
_FLAGS: Final = frozenset(
    {"verify_ssl", "use_https", "virtual_host", "accelerate", "anonymous"})
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off", "")


def type_of(raw: Mapping[str, object], where: str) -> str:
    """The type of the credentials `raw`. where: names them in messages. Raises
    InvalidSpecification."""
    given = raw.get("type")
    if given is not None:
        known = _TYPE_ALIASES.get(str(given).lower(), str(given).lower())
        if known not in _TYPES:
            raise InvalidSpecification(
                f"{where}: type {str(given)!r} is not known; known are {', '.join(_TYPES)}")
        return known
    if told := secret_types(raw):
        return told[0]
    raise InvalidSpecification(
        f"{where}: the field 'type' is missing; give one of {', '.join(_TYPES)}")


def secret_types(keys: Mapping[str, object]) -> list[str]:
    """For what a file or folder with these keys is itself a KServe secret."""
    return [kind for kind, telling in _TELLING.items() if any(key in keys for key in telling)]


def fields_of(kind: str, raw: Mapping[str, object], where: str) -> dict[str, str]:
    """The fields that `kind` has, by the names used here; others are left out, and empty ones.
    Raises InvalidSpecification."""
    found: dict[str, str] = {}
    plain = {key.removeprefix(_ANNOTATION): value for key, value in raw.items()}
    for name, aliases in _TYPES[kind].items():
        for key in (name, *aliases):
            value = plain.get(key)
            if value not in (None, ""):
                found[name] = _text(name, value, f"{where}: the field {key!r}")
                break
    _check_together(kind, found, where)
    return found


def check_known(kind: str, raw: Mapping[str, object], where: str) -> None:
    """Raise InvalidSpecification for a field that `kind` has not; empty ones too."""
    known = {"type", *_TYPES[kind], *(each for also in _TYPES[kind].values() for each in also)}
    for key in raw:
        if key.removeprefix(_ANNOTATION) not in known:
            raise InvalidSpecification(
                f"{where}: the field {key!r} is not known for the type {kind!r}; known are "
                f"{', '.join(_TYPES[kind])}")


def _text(name: str, value: object, where: str) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    if name in _FLAGS:
        lower = str(value).lower()
        if lower not in _TRUE + _FALSE:
            raise InvalidSpecification(f"{where} must be true or false")
        return "true" if lower in _TRUE else "false"
    if name == "headers":
        return _headers(value, where)
    if isinstance(value, Mapping) and name == "service_account":
        return json.dumps(value)
    if not isinstance(value, str | int):
        raise InvalidSpecification(f"{where} must be a text")
    text = str(value)
    if "\0" in text:
        raise InvalidSpecification(f"{where} must be a text without null characters")
    return text if "\n" in text.strip() else text.strip()


def _headers(value: object, where: str) -> str:
    """JSON of a flat object, from such an object or from the lines of KServe's secrets."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            lines = [line for line in str(value).splitlines() if line.strip()]
            if not all(":" in line for line in lines):
                raise InvalidSpecification(
                    f"{where} must be a JSON object, or lines of the form 'Name: value'"
                ) from None
            value = {name.strip(): text.strip()
                     for name, _, text in (line.partition(":") for line in lines)}
    if not isinstance(value, Mapping) or not all(
            isinstance(each, str) and _one_line(each) for pair in value.items() for each in pair):
        raise InvalidSpecification(f"{where} must be a JSON object of texts, each of one line")
    return json.dumps(dict(value))


def _one_line(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _check_together(kind: str, found: Mapping[str, str], where: str) -> None:
    for first, *others in _TOGETHER.get(kind, ()):
        for other in others:
            if first in found and other not in found:
                raise InvalidSpecification(
                    f"{where}: the field {other!r} is missing, which {first!r} needs")
