"""What the core's shell needs from the world, as Protocols.

Adapters in `stores`, `runtimes` and `storage` implement them; `app` chooses which. Nothing here
does anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"


class Clock(Protocol):
    """Time, so that tests can hold it still."""

    def monotonic(self) -> float:
        """Seconds that only grow; for durations and deadlines."""

    def wall(self) -> float:
        """Seconds since the epoch; for what people read and what outlives the process."""


class Peers(Protocol):
    """The other instances of the mesh, as far as they can be reached now. Who can is told by
    callbacks that the adapter was made with."""

    def tell(self, instance: str, message: bytes) -> bool:
        """Send a message. False: it will not arrive, because there is no link or too much waits on
        it. True: it was taken, and arrives once, in order, unless the link is lost before. Raises
        ValueError for a message beyond 16 MiB."""


# --- runtimes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Artifact:
    """The local files of one revision, ready to load.

    path: a file, or a folder where the format is one.
    inputs, outputs: declared beside the artifact or in the registration; empty: not declared.
    trusted_types: full names of types that may be made besides a format's own list of harmless
        ones. The shell fills it from the settings; nothing in the artifact can widen it.
    device: the accelerator that it is to run on, such as `cuda:0`; None: the processor. Only for
        runtimes that are `Accelerating`.
    """

    model: str
    version: int
    path: Path
    format: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    threads: int = 1  # how many CPU threads the framework may use for one call
    trusted_types: tuple[str, ...] = ()
    device: str | None = None


class LoadedModel(Protocol):
    """A model in memory. `predict` may be called from several threads at once, at most
    `max_concurrency` of them. It may be `Noted`, `RowLimited`, `Accelerated` and `Optimizable` as
    well."""

    signature: Signature
    platform: str  # e.g. "onnxruntime_onnx"; the protocol's metadata field
    max_concurrency: int
    may_wait: bool  # `predict` may wait for something else than processors: a network, a lock

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """Arrays by input name, checked against `signature` (BYTES: object arrays of bytes), to
        arrays by output name.

        outputs: names of `signature.outputs` that are wanted, so that costly ones are computed only
            when asked for; empty: `signature.default_outputs`, or all when it is empty too. The
            answer holds these at least.

        Raises InvalidInput when the framework finds the caller's data wrong; any other exception
        is the model's own fault.
        """

    def size_bytes(self) -> int | None:
        """What the model holds in memory as far as its framework can tell; None: cannot tell."""

    def close(self) -> None:
        """Give back what holds memory or files. Called once, never during `predict`."""


@runtime_checkable
class Noted(Protocol):
    """A LoadedModel about which its framework said something while loading: one sentence a note,
    for people. A warning that the file was written by another version is one."""

    notes: tuple[str, ...]


@runtime_checkable
class RowLimited(Protocol):
    """A LoadedModel that knows how many rows of several requests it may be given in one call,
    because each row is answered by itself; 1: of one request alone. Others are tried, where the
    first axis of every tensor is free."""

    max_batch_rows: int


@runtime_checkable
class Accelerated(Protocol):
    """A LoadedModel that may lie on an accelerator."""

    def accelerator_bytes(self) -> int:
        """What it holds on the device of its artifact; 0: it runs on the processor."""


@runtime_checkable
class Apart(Protocol):
    """A LoadedModel that runs in another process, which may hang or be started again: so no call
    of it runs on the event loop."""

    apart: bool


@runtime_checkable
class Optimizable(Protocol):
    """A LoadedModel of which there may be a faster form."""

    def optimize(self) -> Outcome:
        """Look for a faster form, and keep it when its answers are the same within a tolerance.

        Blocking, and may take seconds; called at most once, while `predict` goes on beside it, and
        never after `close`. Runs no code that loading did not. Raises nothing that is known to go
        wrong: the outcome says why it was not kept.
        """


@dataclass(frozen=True, slots=True)
class Outcome:
    """platform: of the faster form that answers from now on; None when there is none. note: what
    came out and why, one sentence for people."""

    platform: str | None
    note: str


class Runtime(Protocol):
    """Loads one format. Constructed without arguments; imports its framework only in `load`."""

    format: str
    suffixes: tuple[str, ...]  # of artifact files, lower case, in order of preference
    options: tuple[str, ...] | None  # names that `Artifact.options` may have; None: any

    def recognise(self, path: Path, head: bytes) -> bool:
        """Is this the artifact? `path`: a file or folder; `head`: a file's first 4,096 bytes, b""
        for a folder. Cheap; imports no framework. Formats must not overlap: `.bst` is XGBoost's and
        LightGBM's, told apart by content."""

    def runs_code(self, path: Path) -> bool:
        """Can loading this artifact run code that it contains?"""

    def load(self, artifact: Artifact) -> LoadedModel:
        """Blocking. Raises InvalidArtifact when the framework cannot read the files, RuntimeMissing
        when the framework is not installed (naming the extra), NotTrusted for types that the format
        does not consider harmless, InvalidSpecification for wrong options."""


@runtime_checkable
class Isolated(Protocol):
    """A Runtime whose models run in processes of their own (`isolated`): because what it stands on
    does not get on with others, or takes the process with it when it fails."""

    isolated: bool


@runtime_checkable
class Accelerating(Protocol):
    """A Runtime that can run models on accelerators.

    `load` with a device raises RuntimeMissing where the framework installed here cannot use it, and
    AcceleratorFull where the device has too little memory. The models are `Accelerated`.
    """

    accelerators: tuple[str, ...]  # kinds, such as "cuda"


# --- stores -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored pair. `revision`: the store's revision at which it was written."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """One change seen by a watch; `value` is None for a deletion."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries, sorted by key, as they stood together at `revision`. `more`: the limit cut it."""

    entries: Sequence[Entry]
    revision: int
    more: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value`. `expect`: the revision the key must be at (0: must not exist); None: whatever.
    `lease`: the key goes when the lease ends."""

    key: str
    value: bytes
    expect: int | None = None
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    key: str
    expect: int | None = None


Op: TypeAlias = "Put | Delete"


class Compacted(Exception):
    """The watch's start is older than the history the store keeps: list again and compare."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history before revision {oldest} is gone")
        self.oldest = oldest


class LeaseLost(Exception):
    """The lease ended, and with it every key that hung on it."""


class KVStore(Protocol):
    """An ordered map of keys to bytes with one revision counter for all, after etcd.

    Every successful write (or transaction) raises the store's revision: by one, or by more where
    others write to the same store beside Shoal. Any method raises StoreUnavailable when the store
    cannot be reached or is damaged. A write that raises it may have been made all the same, or may
    still be, where the store is another process; its message says so then.
    """

    async def get(self, key: str) -> Entry | None: ...

    async def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Listing:
        """Entries whose key begins with `prefix`; a page begins after the key `start_after`. One
        call sees one state, the next page another one where somebody wrote in between."""

    async def transact(self, ops: Sequence[Op]) -> int:
        """All or nothing; the new revision. Raises Conflict when an `expect` does not hold,
        LeaseLost, InvalidSpecification for more bytes than the store takes at once.

        Every store takes 1,000 ops, of which 64 with an `expect`, and 1 MiB."""

    async def put(self, key: str, value: bytes, *, expect: int | None = None,
                  lease: int | None = None) -> int: ...

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        """Deleting what is not there is no error (unless `expect` says otherwise)."""

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        """Every change with revision > `from_revision`, in order, none lost, until cancelled.
        Raises Compacted when the history does not reach back so far."""

    async def grant(self, ttl_s: float) -> int:
        """A lease that ends after `ttl_s` seconds unless kept alive."""

    async def keep_alive(self, lease: int) -> None:
        """Raises LeaseLost."""

    async def revoke(self, lease: int) -> None: ...

    async def close(self) -> None: ...
