"""Which bucket a URI means, and what obstore is told to reach it as whom.

Opens no connection. Everything that may be secret stays in what is returned: no text made here
shows it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote, urlsplit

from shoal.domain.errors import InvalidSpecification
from shoal.storage.names import shown
from shoal.storage.places.ambient import ENVIRONMENT, ambient_values
from shoal.storage.places.aws_profile import profile
from shoal.storage.places.credentials import Access
from shoal.storage.places.reach import certificates

if TYPE_CHECKING:
    from obstore.store import (
        AzureStore,
        ClientConfig,
        GCSStore,
        RetryConfig,
        S3Credential,
        S3CredentialProvider,
        S3Store,
    )

    Store = AzureStore | GCSStore | S3Store

Kind = Literal["s3", "gcs", "azure"]

SCHEMES: Final[dict[str, Kind]] = {
    "s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "azure": "azure", "abfs": "azure",
    "abfss": "azure",
}

_AZURE_HOST: Final = re.compile(
    r"[a-z0-9-]+\.(?:blob|dfs)\.core\.(?:windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)")
_BUCKET: Final = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
_ABOVE_PROFILE: Final = frozenset({"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"})
_ABOVE_CLIENT_SECRET: Final = (
    "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN",
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """endpoint: where it is, where the URI says so. account: Azure's. signature: of a signed URI,
    a secret."""

    kind: Kind
    name: str
    account: str = ""
    endpoint: str = ""
    signature: str = ""

    def __repr__(self) -> str:
        return f"Bucket({self.kind}, {self.name})"


@dataclass(frozen=True, slots=True)
class Patience:
    """connect_s: for a connection. read_s: between bytes. retries: of a request that failed with a
    server's error or none at all, within retry_s."""

    connect_s: float = 5.0
    read_s: float = 20.0
    retries: int = 3
    retry_s: float = 30.0


def is_blob_uri(uri: str) -> bool:
    """Is this `https://` URI one of Azure's object stores?"""
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        return False
    return _AZURE_HOST.fullmatch(host or "") is not None


def bucket_of(uri: str, access: Access | None = None) -> tuple[Bucket, str]:
    """The bucket (container) of `uri`, and the key in it: without a `/` before it, and with one
    after it only where `uri` has it. Raises InvalidSpecification."""
    scheme, _, rest = uri.partition("://")
    host, _, key = rest.partition("/")
    kind = SCHEMES.get(scheme.lower(), "azure")
    signature = ""
    account, endpoint = "", ""
    if scheme.lower() in ("https", "http"):
        parts = urlsplit(uri)
        account = host.split(".")[0].lower()
        endpoint = f"https://{host}".replace(".dfs.core.", ".blob.core.")
        name, _, key = unquote(parts.path).lstrip("/").partition("/")
        signature = parts.query
        _check(scheme.lower() == "https" and "@" not in host, uri, "must begin with https://, and "
               "names no user; use credentials by name")
    elif "@" in host and scheme.lower() in ("abfs", "abfss"):
        name, _, there = host.partition("@")
        _check(_AZURE_HOST.fullmatch(there.lower()) is not None, uri,
               "names no account of Azure; write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/…")
        account = there.split(".")[0].lower()
        endpoint = f"https://{there.lower()}".replace(".dfs.core.", ".blob.core.")
    else:
        name = host or (access.get("bucket") if access is not None else "")
    _check(_BUCKET.fullmatch(name) is not None, uri,
           f"names no bucket; write {scheme}://BUCKET/KEY" if scheme.lower() in SCHEMES else
           "names no container; write https://ACCOUNT.blob.core.windows.net/CONTAINER/KEY")
    inner = key[:-1] if key.endswith("/") and key != "/" else key
    _check(not inner or not {"", ".", ".."}.intersection(inner.split("/")), uri,
           "has a key with an empty part, '.' or '..', which cannot be reached; copy it to "
           "another key")
    return Bucket(kind, name, account, endpoint, signature), key


def check_bucket_uri(uri: str) -> None:
    """Raise InvalidSpecification for what cannot be the URI of an object or a folder; which bucket
    may be left to the credentials."""
    bucket_of(uri, _ANY)


_ANY: Final = Access("", "", {"bucket": "any"})


def _check(right: bool, uri: str, reason: str) -> None:
    if not right:
        raise InvalidSpecification(f"uri {shown(uri)} {reason}")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a store is made for. region: where it was found out; anonymous: whatever `access`
    says; authorities: PEM of those trusted beside the system's and those in `access`."""

    bucket: Bucket
    access: Access | None
    patience: Patience
    region: str = ""
    anonymous: bool = False
    authorities: str = ""


def make_store(wish: Wish) -> Store:
    """Raises InvalidSpecification for credentials that nothing can be done with."""
    from obstore.exceptions import BaseError

    kind = wish.bucket.kind
    values = dict(wish.access.values) if wish.access is not None else ambient_values(kind)
    try:
        if kind == "s3":
            return _s3(wish, values)
        return _gcs(wish, values) if kind == "gcs" else _azure(wish, values)
    except (BaseError, ValueError):
        # Not chained: obstore's messages quote what they cannot read.
        named = _named(wish.access)
        raise InvalidSpecification(
            f"{named} cannot be used for the bucket {wish.bucket.name!r}: a key, certificate or "
            "endpoint in them cannot be read; correct them") from None


def _named(access: Access | None) -> str:
    return f"credentials {access.name!r}" if access is not None else (
        f"the credentials of {ENVIRONMENT}")


def _s3(wish: Wish, values: dict[str, str]) -> S3Store:
    from obstore.store import S3Store

    by_boto3 = False
    if "access_key_id" not in values and not _ABOVE_PROFILE.intersection(os.environ):
        found, by_boto3 = profile(os.environ)
        values = {**found, **values}
    region = wish.region or values.get("region") or os.environ.get("AWS_REGION") or os.environ.get(
        "AWS_DEFAULT_REGION") or "us-east-1"
    virtual = values.get("virtual_host") == "true" or values.get("accelerate") == "true"
    endpoint = s3_endpoint(wish.bucket.name, values, region)
    anonymous = wish.anonymous or values.get("anonymous") == "true"
    provider = _static(values)
    if provider is None and by_boto3 and not anonymous:
        from obstore.auth.boto3 import Boto3CredentialProvider

        provider = Boto3CredentialProvider()
    return S3Store(
        wish.bucket.name, region=region, aws_endpoint_url_s3=endpoint, skip_signature=anonymous,
        virtual_hosted_style_request=virtual, client_options=_client(wish, values, endpoint),
        retry_config=_retries(wish.patience), credential_provider=provider,
    )


def _static(values: Mapping[str, str]) -> S3CredentialProvider | None:
    """A provider, because the environment's session token would be added to keys that are
    options."""
    if "access_key_id" not in values:
        return None
    credential: S3Credential = {
        "access_key_id": values["access_key_id"],
        "secret_access_key": values["secret_access_key"],
        "token": values.get("session_token"),
        "expires_at": None,
    }
    return lambda: credential


def s3_endpoint(bucket: str, values: Mapping[str, str], region: str) -> str:
    """With the bucket in it where it is spoken to as a virtual host."""
    if values.get("accelerate") == "true":
        return f"https://{bucket}.s3-accelerate.amazonaws.com"
    china = ".cn" if region.startswith("cn-") else ""
    given = values.get("endpoint_url") or f"https://s3.{region}.amazonaws.com{china}"
    if "://" not in given:
        given = f"{'http' if values.get('use_https') == 'false' else 'https'}://{given}"
    if values.get("virtual_host") == "true":
        scheme, _, host = given.partition("://")
        given = given if host.startswith(f"{bucket}.") else f"{scheme}://{bucket}.{host}"
    return given.rstrip("/")


def _gcs(wish: Wish, values: dict[str, str]) -> GCSStore:
    from obstore.store import GCSStore

    endpoint = values.get("endpoint_url", "")
    if endpoint and "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    anonymous = wish.anonymous or values.get("anonymous") == "true"
    options: dict[str, str] = {"base_url": endpoint} if endpoint else {}
    key = values.get("service_account", "")
    if "private_key" in values:
        key = json.dumps({
            "type": "service_account", "private_key": values["private_key"],
            "private_key_id": values.get("private_key_id", ""),
            "client_email": values["client_email"],
        })
    if key and not anonymous:
        _check_service_account(key, _named(wish.access))
        options["service_account_key"] = key
    return GCSStore(
        wish.bucket.name, config=options, skip_signature=anonymous,  # type: ignore[arg-type]
        client_options=_client(wish, values, endpoint), retry_config=_retries(wish.patience),
    )


def _check_service_account(text: str, named: str) -> None:
    try:
        kind = json.loads(text)["type"]
    except (ValueError, LookupError, TypeError):
        kind = None
    if kind != "service_account":
        raise InvalidSpecification(
            f"{named}: the Google credentials must be the JSON of a service account; give others "
            "by GOOGLE_APPLICATION_CREDENTIALS in the server's environment")


def _azure(wish: Wish, values: dict[str, str]) -> AzureStore:
    from obstore.store import AzureStore

    values = {**values, **_connection(values.get("connection_string", ""))}
    account = wish.bucket.account or values.get("account_name", "")
    if not account:
        raise InvalidSpecification(
            f"az://{wish.bucket.name} names no storage account, nor does {_named(wish.access)}: "
            "write https://ACCOUNT.blob.core.windows.net/CONTAINER/KEY, or set account_name "
            "(AZURE_STORAGE_ACCOUNT_NAME)")
    if account != values.get("account_name", account) and not wish.bucket.signature:
        values = _of_another_account(wish, values)
    endpoint = values.get("endpoint_url") or wish.bucket.endpoint or (
        f"https://{account}.blob.core.windows.net")
    anonymous = wish.anonymous or values.get("anonymous") == "true"
    provider = None
    options: dict[str, str] = {}
    sas = wish.bucket.signature or values.get("sas_token", "")
    if sas:
        provider = lambda: {"sas_token": sas.removeprefix("?"), "expires_at": None}  # noqa: E731
    elif "account_key" in values:
        key = values["account_key"]
        base64.b64decode(key, validate=True)
        provider = lambda: {"access_key": key, "expires_at": None}  # noqa: E731
    elif "client_secret" in values:
        _check_no_other_secret(wish.access)
        options = {each: values[each] for each in ("client_id", "client_secret", "tenant_id")}
    return AzureStore(
        wish.bucket.name, account_name=account, endpoint=endpoint, skip_signature=anonymous,
        config=options, client_options=_client(wish, values, endpoint),  # type: ignore[arg-type]
        retry_config=_retries(wish.patience),
        credential_provider=provider,  # type: ignore[arg-type]
    )


def _of_another_account(wish: Wish, values: Mapping[str, str]) -> dict[str, str]:
    """Credentials of one account are shown to no other: it may be public, or was named by
    mistake."""
    if wish.access is not None and not wish.access.is_default:
        raise InvalidSpecification(
            f"{_named(wish.access)} are for the account {values['account_name']!r}, not for "
            f"{wish.bucket.account!r}; name others, or none")
    return {"anonymous": "true"}


def _check_no_other_secret(access: Access | None) -> None:
    """obstore would take these before the client's secret, and so be somebody else."""
    for variable in _ABOVE_CLIENT_SECRET:
        if access is not None and variable in os.environ:
            raise InvalidSpecification(
                f"{_named(access)} are those of a client, but {variable} in the server's "
                "environment would be used before them; remove it")


def _connection(text: str) -> dict[str, str]:
    """The fields of an Azure connection string."""
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    names = {"AccountName": "account_name", "AccountKey": "account_key",
             "SharedAccessSignature": "sas_token", "BlobEndpoint": "endpoint_url"}
    found = {ours: parts[theirs] for theirs, ours in names.items() if parts.get(theirs)}
    suffix, account = parts.get("EndpointSuffix"), found.get("account_name")
    if suffix and account and "endpoint_url" not in found:
        found["endpoint_url"] = f"https://{account}.blob.{suffix}"
    return found


def _client(wish: Wish, values: Mapping[str, str], endpoint: str) -> ClientConfig:
    """No limit to how long a file may take as long as it comes."""
    options: ClientConfig = {
        "allow_http": endpoint.lower().startswith("http://"),
        "allow_invalid_certificates": values.get("verify_ssl") == "false",
        "connect_timeout": timedelta(seconds=wish.patience.connect_s),
        "read_timeout": timedelta(seconds=wish.patience.read_s),
        "timeout": timedelta(days=1),
        "user_agent": "shoal",
    }
    authorities = certificates(values, _named(wish.access), wish.authorities)
    if authorities:
        options["root_certificate"] = authorities
    return options


def _retries(patience: Patience) -> RetryConfig:
    return {
        "max_retries": patience.retries,
        "retry_timeout": timedelta(seconds=patience.retry_s),
        "backoff": {"init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=3), "base": 3},
    }
