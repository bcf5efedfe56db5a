"""The supervisor's process: `python -m shoal.workers FD`, with the plan in the file FD."""

from __future__ import annotations

import sys

from shoal.workers.plan import read_plan
from shoal.workers.supervisor import supervise

if __name__ == "__main__":
    plan_fd = int(sys.argv[1])
    sys.exit(supervise(read_plan(plan_fd), plan_fd))
