"""What the daemon starts in gVisor's place: a runtime's arguments are the same for all containers, and these are not.

A container that is made gets its log's pipe, if there is one, and the scheduling of batch work. gVisor's own threads
wake thousands of times a second, and each time one would take the processor from a thread of the guest while the
guest's others spin at a barrier for it. As batch work they wait until it is free or their turn comes.
"""

import shlex
from pathlib import Path

from provider.sandbox.log_pipes import pipe_of


def script(runsc: str, folder: Path) -> str:
    """The program, for pipes in `folder`.

    It opens the pipe for reading too while the container is made: gVisor would wait for ever for a maker that has gone.
    """
    return f"""#!/bin/sh
for container; do :; done
pipe={shlex.quote(str(pipe_of(folder, "")))}$container
case " $* " in
*" create "*)
    if [ -p "$pipe" ]; then
        exec 9<>"$pipe"
        set -- --debug "--debug-log=$pipe" "$@"
    fi
    exec chrt --batch 0 {shlex.quote(runsc)} "$@"
    ;;
esac
exec {shlex.quote(runsc)} "$@"
"""
