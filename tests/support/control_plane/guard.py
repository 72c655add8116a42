"""Runs processes for its parent and ends them when the parent ends, however that happens.

It is started as a program of its own and told what to do in JSON lines on stdin, one answer per line on stdout.
The end of stdin is its order to clean up: the kernel closes that pipe also when the parent dies of SIGKILL. It
only ever signals children of its own that it has not waited for yet, so it cannot hit a process that inherited
a number. Standard library only: it has to start in a moment.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

Children = dict[str, subprocess.Popen[bytes]]


def main(folder: str, keep: bool) -> None:
    """Obey stdin until it ends; then kill what still runs, the youngest first, and remove the folder unless told to keep it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    children: Children = {}
    try:
        for line in sys.stdin:
            answer = _obey(json.loads(line), children)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # the parent died while it waited for the answer
    finally:
        _clean_up(children, None if keep else folder)


def _obey(order: dict[str, Any], children: Children) -> Any:
    name = order["name"]
    match order["order"]:
        case "start":
            children[name] = _start(order)
            return children[name].pid
        case "stop":
            return _stop(children.pop(name), order["seconds"]) if name in children else None
        case "poll":
            return name in children and children[name].poll() is None
        case unknown:
            raise ValueError(unknown)


def _start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    with open(order["log"], "ab") as log:
        return subprocess.Popen(
            order["command"],
            env=os.environ | order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _stop(child: subprocess.Popen[bytes], seconds: float) -> int:
    """End a child: ask and wait for `seconds`, then kill. With 0 seconds it is not asked."""
    if seconds:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(seconds)
    child.kill()
    return child.wait()


def _clean_up(children: Children, folder: str | None) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # An API server whose etcd is gone ignores SIGTERM for a minute, so the order matters, and nobody is asked.
    for child in reversed(children.values()):
        _stop(child, seconds=0)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], keep="--keep" in sys.argv)
