"""Decides what of the server's environment variables other processes get: no secrets.

They are known by their names, so one with a name of its own gets through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Frameworks read these once, when they are imported: each would start a thread a processor."""

# The server's own settings, and what object stores, registries of models, package indexes are read
# with.
_SECRET: Final = re.compile(
    r"SHOAL_|AWS_|AZURE_|GOOGLE_|GCS_|GCLOUD_|CLOUDSDK_|MINIO_|PIP_|UV_|NETRC$|PGPASS"
    r"|.*(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|PRIVATE_KEY|ACCESS_KEY|API_?KEY|CONNECTION_STR)",
    re.IGNORECASE,
)
_WITH_PASSWORD: Final = re.compile(r"://[^/@\s]*:[^/@\s]+@")  # in the address of a proxy, say
_OF_ANOTHER_PYTHON: Final = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")


def variables(environ: Mapping[str, str], foreign: bool, threads: int | None = None
              ) -> dict[str, str]:
    """foreign: for another Python than this one. threads: that frameworks may use, unless `environ`
    says."""
    kept = {
        name: value for name, value in environ.items()
        if not _SECRET.match(name) and not _WITH_PASSWORD.search(value)
        and not (foreign and name in _OF_ANOTHER_PYTHON)
    }
    if threads is not None:
        kept = {**dict.fromkeys(THREADS, str(threads)), **kept}
    return {**kept, "PYTHONUNBUFFERED": "1"}
