"""Reads what `aws configure` wrote, which obstore does not: keys, region and endpoint of a profile.

Profiles that are more than keys (single sign-on, a role to take, a program to ask) are left to
boto3 where it is installed.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidSpecification

_NEED_BOTO3: Final = ("sso_session", "sso_start_url", "source_profile", "credential_process",
                      "credential_source")
_FIELDS: Final = {
    "aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token", "region": "region", "endpoint_url": "endpoint_url",
    "ca_bundle": "ca_bundle",
}


def profile(environ: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """The fields of the chosen profile, by the names of `fields`, and whether boto3 has to find
    out its keys. Blocking.

    Raises InvalidSpecification when AWS_PROFILE names none, or boto3 is needed and missing.
    """
    name = environ.get("AWS_PROFILE") or "default"
    keys = _section(_path(environ, "AWS_SHARED_CREDENTIALS_FILE", "credentials"), name)
    config = _section(_path(environ, "AWS_CONFIG_FILE", "config"),
                      name if name == "default" else f"profile {name}")
    if not keys and not config and "AWS_PROFILE" in environ:
        raise InvalidSpecification(
            f"AWS_PROFILE is {name!r}, which is in neither AWS's credentials file nor its config "
            "file; correct it")
    both = {**config, **keys}
    found = {ours: both[theirs] for theirs, ours in _FIELDS.items() if both.get(theirs)}
    if "access_key_id" in found or not any(each in both for each in _NEED_BOTO3):
        return found, False
    if importlib.util.find_spec("boto3") is None:
        raise InvalidSpecification(
            f"the AWS profile {name!r} takes its keys from elsewhere (single sign-on, a role, a "
            "program), for which boto3 is needed: install it, or give keys")
    return found, True


def _path(environ: Mapping[str, str], variable: str, name: str) -> Path:
    return Path(environ.get(variable) or f"~/.aws/{name}").expanduser()


def _section(path: Path, name: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, configparser.Error, RuntimeError):
        # Not chained: the parser's message quotes the line, which may hold a key.
        raise InvalidSpecification(
            f"AWS's file {os.fspath(path)} cannot be read as a profile; correct it") from None
    return parser[name] if parser.has_section(name) else {}
