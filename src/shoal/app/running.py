"""How models are loaded and run: on which threads, trusted how far, in which processes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from shoal.external.claim import runtime_folder
from shoal.external.options import ExternalOptions
from shoal.external.servers import ExternalServers
from shoal.isolation.model import Isolation, IsolationOptions
from shoal.node.live import Running
from shoal.node.loader import Loader
from shoal.node.machine import be_nice, usable_cpus
from shoal.node.suspects import Suspects
from shoal.observability.logs import get_logger
from shoal.runtimes.registry import RuntimeRegistry
from shoal.runtimes.torch_device import allocated_bytes
from shoal.settings import Settings
from shoal.storage.fetching import Fetching
from shoal.storage.signing import signatures_of
from shoal.workers.plan import Before

_LEAST_THREADS: Final = 16  # for models that wait for something else than a processor
_THREADS_A_CPU: Final = 4

log = get_logger("shoal")


def make_loader(
    settings: Settings, runtimes: RuntimeRegistry, fetching: Fetching, given: Sequence[str],
    budget_bytes: int,
) -> Loader:
    """given: folders and prefixes that the instance was started with; these are trusted."""
    loader = Loader(
        runtimes,
        trusted=(*given, *settings.trust.locations),
        trusted_types=settings.trust.skops_types,
        framework_threads=max(settings.request.framework_threads, 1),
        fetching=fetching,
        isolation=_isolation(settings, budget_bytes),
    )
    loader.signatures = signatures_of(settings.trust)
    loader.external = _external(settings)
    loader.held_on = allocated_bytes
    return loader


def remember_deaths(data_dir: Path, before: Before) -> Suspects | None:
    """What was being loaded when processes died. before: of a worker, who had its place."""
    folder = data_dir / "loads"
    try:
        return Suspects(folder, before.ends)
    except OSError as error:
        log.warning("it will not be known what was being loaded, should the process die",
                    folder=str(folder), error=error.strerror or str(error))
        return None


def make_running(settings: Settings, workers: int) -> Running:
    """workers: processes that share this machine's processors."""
    request = settings.request
    threads = threads_each(request.threads, workers, usable_cpus())
    return Running(
        pool=ThreadPoolExecutor(threads, "shoal-predict", be_nice, (request.thread_niceness,)),
        threads=threads,
        inline_limit_s=request.inline_limit_ms / 1e3,
        max_queued=request.max_queued_per_model,
        max_batch_rows=request.max_batch_rows,
        max_batch_delay_s=request.max_batch_delay_ms / 1e3,
    )


def threads_each(wanted: int, workers: int, cpus: int) -> int:
    """Of one of `workers` processes, for models; see the setting `request.threads`."""
    if wanted:
        return -(-wanted // workers)
    return max(_LEAST_THREADS, _THREADS_A_CPU * cpus // workers)


def _external(settings: Settings) -> ExternalServers:
    isolation = settings.isolation
    return ExternalServers(ExternalOptions(
        folder=runtime_folder,
        instance=f"the instance with the data folder {settings.data_dir.absolute()} "
                 f"(process {os.getpid()})",
        load_timeout_s=isolation.start_timeout_s,
        call_timeout_s=isolation.call_timeout_s,
        niceness=settings.request.thread_niceness,
        hang_s=isolation.call_timeout_s or math.inf,
    ))


def _isolation(settings: Settings, budget_bytes: int) -> Isolation:
    isolation = settings.isolation
    return Isolation(IsolationOptions(
        environments=Path(isolation.environments_dir).expanduser()
        if isolation.environments_dir else settings.data_dir / "environments",
        most_environments=isolation.max_environments,
        memory_factor=isolation.memory_factor,
        loading_bytes=budget_bytes,
        start_timeout_s=isolation.start_timeout_s,
        call_timeout_s=isolation.call_timeout_s,
        niceness=settings.request.thread_niceness,
    ))
