"""What etcd's and gRPC's refusals mean."""

from __future__ import annotations

import pytest

from shoal.domain.errors import InvalidSpecification, StoreUnavailable
from shoal.stores.etcd_answers import Fate, Refused, Unanswered, failure, in_words, plain


@pytest.mark.parametrize(
    ("code", "details", "fate"),
    [
        ("UNAVAILABLE", "etcdserver: no leader", Fate.UNDONE),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Fate.UNDONE),
        ("UNIMPLEMENTED", "unknown service etcdserverpb.KV", Fate.UNDONE),
        ("UNAVAILABLE", "etcdserver: request timed out", Fate.UNKNOWN),
        ("UNAVAILABLE", "etcdserver: server stopped", Fate.UNKNOWN),
        ("UNAVAILABLE", "Socket closed", Fate.UNKNOWN),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Fate.UNKNOWN),
        ("INTERNAL", "", Fate.UNKNOWN),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", Fate.TOKEN),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", Fate.TOKEN),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", Fate.TOKEN),
    ],
)
def test_a_failure_tells_whether_it_may_have_been_done(
    code: str, details: str, fate: Fate
) -> None:
    told = failure(code, details)
    assert isinstance(told, Unanswered)
    assert told.fate is fate
    assert told.reason


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("NOT_FOUND", "etcdserver: requested lease not found"),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted"),
        ("INVALID_ARGUMENT", "etcdserver: request is too large"),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded"),
    ],
)
def test_what_etcd_refuses_was_not_done(code: str, details: str) -> None:
    told = failure(code, details)
    assert isinstance(told, Refused)
    assert told.reason == details.removeprefix("etcdserver: ")


@pytest.mark.parametrize(
    ("reason", "kind", "said"),
    [
        ("request is too large", InvalidSpecification, "--max-request-bytes"),
        ("grpc: received message larger than max (5 vs. 4)", InvalidSpecification, "make it small"),
        ("mvcc: database space exceeded", StoreUnavailable, "--quota-backend-bytes"),
        ("permission denied", StoreUnavailable, "user 'u' may not do that: grant"),
        ("authentication failed, invalid user ID or password", StoreUnavailable, "'u'"),
        ("something new", StoreUnavailable, "it refuses: something new"),
    ],
)
def test_a_refusal_names_the_registry_and_the_way_out(
    reason: str, kind: type[Exception], said: str
) -> None:
    error = in_words(Refused(reason), "etcd://h:1/shoal/", "u")
    assert isinstance(error, kind)
    assert error.message.startswith("registry etcd://h:1/shoal/: ")
    assert said in error.message


def test_what_grpc_says_is_put_plainly() -> None:
    assert plain(
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to "
        "connect to remote host: Connection refused"
    ) == "Failed to connect to remote host: Connection refused"
    assert plain("Socket closed") == "Socket closed"
    assert "registry.ca_file" in plain(
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:5: Ssl handshake "
        "failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:"
        "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: self signed certificate"
    )
