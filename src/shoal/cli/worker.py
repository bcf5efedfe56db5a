"""The process of a worker of `shoal serve --workers`: supervisors run `python -m shoal.cli.worker`.

What keeps it from starting it tells its supervisor, which says it once for all workers. What it
does when it hangs, its supervisor lets it write (SIGABRT): the stacks of all threads.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Sequence

from shoal.cli.exit_codes import defect, exit_code
from shoal.domain.errors import ShoalError
from shoal.settings import restore_settings
from shoal.workers.inherited import inherit
from shoal.workers.plan import Report, read_plan


def main(arguments: Sequence[str]) -> int:
    """The exit status. arguments: as `workers.process` gives them."""
    faulthandler.enable()
    plan_fd, channel_fd, number, row = map(int, arguments[:4])
    plan = read_plan(plan_fd)
    os.close(plan_fd)
    inherited = inherit(plan, channel_fd, number, row, arguments[4])
    try:
        configuration = restore_settings(plan.given, plan.sources)
        from shoal.app import serve

        return serve(configuration, plan.folders, inherited)
    except ShoalError as error:
        inherited.channel.tell(Report(state="failed", message=error.message))
        return exit_code(error)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        inherited.channel.tell(Report(state="failed", message=defect(error)))
        return 1
    finally:
        inherited.clear_up()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
