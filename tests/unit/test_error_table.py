"""The one table from errors to HTTP statuses and gRPC codes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import msgspec
import pytest

from shoal.codecs.errors import error_body, grpc_code, http_status, retry_after
from shoal.domain import errors
from shoal.domain.errors import (
    LoadFailed,
    MethodNotAllowed,
    ModelNotFound,
    Overloaded,
    ShoalError,
    TooLarge,
    Unavailable,
)

EXPECTED = {
    "ShoalError": (500, "INTERNAL"),
    "InvalidRequest": (400, "INVALID_ARGUMENT"),
    "InvalidInput": (400, "INVALID_ARGUMENT"),
    "BodyTooLarge": (413, "RESOURCE_EXHAUSTED"),
    "PathNotFound": (404, "UNIMPLEMENTED"),
    "MethodNotAllowed": (405, "UNIMPLEMENTED"),
    "NotAllowed": (403, "PERMISSION_DENIED"),
    "InvalidSpecification": (400, "INVALID_ARGUMENT"),
    "NotFound": (404, "NOT_FOUND"),
    "ModelNotFound": (404, "NOT_FOUND"),
    "VersionNotFound": (404, "NOT_FOUND"),
    "Conflict": (409, "ABORTED"),
    "ArtifactError": (422, "FAILED_PRECONDITION"),
    "ArtifactMissing": (422, "FAILED_PRECONDITION"),
    "ArtifactChanged": (422, "FAILED_PRECONDITION"),
    "UnknownFormat": (422, "FAILED_PRECONDITION"),
    "InvalidArtifact": (422, "FAILED_PRECONDITION"),
    "NotTrusted": (422, "FAILED_PRECONDITION"),
    "PlaceDenied": (422, "FAILED_PRECONDITION"),
    "PlaceUnavailable": (503, "UNAVAILABLE"),
    "RuntimeMissing": (422, "FAILED_PRECONDITION"),
    "NoSupportingRuntime": (422, "FAILED_PRECONDITION"),
    "RuntimeNotRecognized": (422, "FAILED_PRECONDITION"),
    "RuntimeDisabled": (422, "FAILED_PRECONDITION"),
    "ModelFailed": (500, "INTERNAL"),
    "Unavailable": (503, "UNAVAILABLE"),
    "LoadFailed": (503, "UNAVAILABLE"),
    "NoRoom": (503, "UNAVAILABLE"),
    "TooLarge": (503, "RESOURCE_EXHAUSTED"),
    "AcceleratorFull": (503, "UNAVAILABLE"),
    "Thrashing": (503, "UNAVAILABLE"),
    "Overloaded": (429, "RESOURCE_EXHAUSTED"),
    "Unloaded": (503, "UNAVAILABLE"),
    "CopyGone": (503, "UNAVAILABLE"),
    "Unreachable": (503, "UNAVAILABLE"),
    "ShuttingDown": (503, "UNAVAILABLE"),
    "StoreUnavailable": (503, "UNAVAILABLE"),
    "StoreDamaged": (503, "DATA_LOSS"),
    "DeadlineExceeded": (504, "DEADLINE_EXCEEDED"),
}


def tree(root: type[ShoalError] = ShoalError) -> Iterator[type[ShoalError]]:
    """Every class of `domain.errors`, without what other packages derive from it."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_class_of_the_tree_has_its_status_and_its_code(kind: type[ShoalError]) -> None:
    assert (http_status(kind), grpc_code(kind)) == EXPECTED[kind.__name__]


def test_the_expectation_names_no_class_that_is_gone() -> None:
    assert set(EXPECTED) == {kind.__name__ for kind in tree()}


def test_every_class_draws_itself_in_the_tree_of_the_docstring() -> None:
    drawn = inspect.getdoc(errors) or ""
    assert [kind.__name__ for kind in tree() if kind.__name__ not in drawn] == []


def test_an_error_answers_as_its_class_does() -> None:
    error = MethodNotAllowed("no", ("GET",))
    assert (http_status(error), grpc_code(error)) == (405, "UNIMPLEMENTED")


def test_a_class_derived_elsewhere_takes_the_row_of_its_base() -> None:
    class Elsewhere(LoadFailed):
        code = "ELSEWHERE"

    assert http_status(Elsewhere("no")) == 503


@pytest.mark.parametrize(
    ("retry_after_s", "header"), [(0.0, 0), (0.2, 1), (1.0, 1), (2.5, 3), (-1.0, 0), (1e300, 86400)]
)
def test_the_time_to_come_back_is_rounded_up_to_seconds(retry_after_s: float, header: int) -> None:
    assert retry_after(Unavailable("busy", retry_after_s)) == header


def test_an_infinite_wait_is_told_as_a_day() -> None:
    assert retry_after(Overloaded("busy", float("inf"))) == 86400


def test_nobody_is_told_to_come_back_with_what_cannot_succeed() -> None:
    assert retry_after(TooLarge("larger than the budget", 5.0)) is None


def test_an_error_without_a_time_gives_none() -> None:
    assert retry_after(ModelNotFound("no model 'a'")) is None


def test_the_body_of_a_failed_inference_holds_the_message() -> None:
    assert msgspec.json.decode(error_body(ModelNotFound("no model 'ä'"))) == {
        "error": "no model 'ä'"
    }
