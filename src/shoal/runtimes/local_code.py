"""Imports a model's own Python code, and says in one line at which of its lines it failed.

For every format that is written in Python. Knows no framework, nor what the code is for.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import ModuleType

from shoal.domain.errors import InvalidArtifact, RuntimeMissing, ShoalError
from shoal.ports import Artifact
from shoal.runtimes.loading import one_line
from shoal.runtimes.local_imports import LocalPackage


def import_local(artifact: Artifact, package: LocalPackage, name: str) -> ModuleType:
    """The module `name` of the model's own files. Raises InvalidArtifact for whatever its code
    raises, RuntimeMissing for a package that is not installed."""
    try:
        return package.import_module(name)
    except ShoalError:
        raise
    except SyntaxError as error:
        raise InvalidArtifact(
            f"model {artifact.model!r}: {Path(error.filename or artifact.path.name).name} line "
            f"{error.lineno}: {error.msg}; correct it"
        ) from error
    except ModuleNotFoundError as error:
        if error.name and package.holds(error.name):
            raise failed(artifact, package, error, "importing it") from error
        raise RuntimeMissing(
            f"model {artifact.model!r}: {_line_in(package, error)} imports {error.name!r}, which "
            "is not installed; install it, or put the file beside the model"
        ) from error
    except Exception as error:  # the model's own code, which raises anything; told as the reason
        raise failed(artifact, package, error, "importing it") from error


def failed(artifact: Artifact, package: LocalPackage, error: Exception, doing: str
           ) -> InvalidArtifact:
    """Of what the model's own code raised."""
    return InvalidArtifact(
        f"model {artifact.model!r}: {doing} failed at {_line_in(package, error)}: "
        f"{type(error).__name__}: {one_line(error)}; {_way_out(package, error)}"
    )


def _way_out(package: LocalPackage, error: Exception) -> str:
    """Pickles end with these two errors when they name a class of the model's own files."""
    missing: object = None
    if isinstance(error, ModuleNotFoundError):
        missing = error.name
    elif isinstance(error, KeyError) and error.args:
        missing = error.args[0]
    if isinstance(missing, str) and package.holds(missing):
        return (
            f"a pickle of a class in the model's own {missing} cannot be loaded: install it as a "
            "package, or save what the object holds instead of the object"
        )
    return "correct it"


def _line_in(package: LocalPackage, error: BaseException) -> str:
    """The last line of the model's own files that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package.folder)]
    return f"{Path(own[-1].filename).name} line {own[-1].lineno}" if own else "its code"
