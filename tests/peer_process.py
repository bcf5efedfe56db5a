"""An instance that answers other instances, in a process of its own; what it answers is for tests.

The revision says what: `echo` the body, `wait` for ever, `miss`, `fail`, `size N`: a body of N
bytes, `memory`: the most it ever had resident, in bytes.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
from typing import Self

import uvloop

from shoal.dataplane.peer import Hello, Limits, LinkOptions, Outcome, PeerCall, PeerReply
from shoal.dataplane.peer import PeerServer as Server

LIMITS = Limits(max_held_bytes=160 * 1024**2)


async def answer(call: PeerCall) -> PeerReply:
    if call.revision == "wait":
        await asyncio.get_running_loop().create_future()
    return PeerReply(Outcome.ANSWERED, call.head, [call.body])


def handle(call: PeerCall) -> PeerReply:
    what, _, number = call.revision.partition(" ")
    if what == "miss":
        return PeerReply(Outcome.MISS)
    if what == "fail":
        raise RuntimeError("as it was asked to")
    if what == "size":
        return PeerReply(Outcome.ANSWERED, b"", [bytes(int(number))])
    if what == "memory":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return PeerReply(Outcome.ANSWERED, b"", [str(peak).encode()])
    return PeerReply(Outcome.ANSWERED, call.head, [call.body])


class PeerProcess:
    """Listens on `address` until it is killed."""

    def __init__(self, instance: str, address: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.peer_process", instance, address],
            stdout=subprocess.PIPE, text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "it did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


async def main(instance: str, address: str) -> None:
    options = LinkOptions(limits=LIMITS)
    server = Server(
        lambda call: answer(call) if call.revision == "wait" else handle(call),
        Hello(instance=instance, mesh="sea"), options=options,
    )
    print(await server.listen(address), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
