"""Runs a command as its child, and ends with it; ends it, and all that it started, when the one
who started this goes. A program: `python guard.py WORD…`, the leader of its process group.

Its standard input is a pipe that nobody writes to: it ends with the other end's last holder. Must
import nothing but the standard library, since it is run without Shoal's path.
"""

from __future__ import annotations

import os
import select
import signal
import sys

NOT_FOUND = 127  # as a shell has it


def main() -> None:
    child = os.fork()
    if child == 0:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        try:
            os.execvp(sys.argv[1], sys.argv[1:])
        except OSError as error:
            print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(NOT_FOUND)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the group, for the child to obey
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(0, 0)  # which tells only that it was hung up
    poll.register(pidfd, select.POLLIN)
    ended = [descriptor for descriptor, _ in poll.poll()]
    if pidfd not in ended:
        os.killpg(0, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:  # end as it did
        signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
        os.kill(os.getpid(), -code)
    os._exit(max(code, 0))


if __name__ == "__main__":
    main()
