"""Runs the command many times with its slow imports done once: each line read is forked into a command of its own.

Reads lines ``{"cwd": ..., "arguments": [...]}`` from stdin; for each it prints the child's pid, which is its process
group too, and then, when it has ended, its wait status. Arguments: the command's file, and modules to import besides.
"""

import importlib
import json
import os
import runpy
import sys


def main() -> None:
    """Serve lines until stdin ends."""
    # Not at the head of this file: a command's workers run that, too.
    for name in ("datatrove.executor", "streaming", *sys.argv[2:]):
        importlib.import_module(name)
    from meap.config import run_command

    command = runpy.run_path(sys.argv[1])
    prepare = command["prepare"]
    (config,) = (command[name] for name in ("PrepConfig", "SftPrepConfig", "LitpkdsPrepConfig") if name in command)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.chdir(order["cwd"])
            log = os.open("command.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(run_command(config, prepare, doc=None, starts_bare=True, argv=order["arguments"]))
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
