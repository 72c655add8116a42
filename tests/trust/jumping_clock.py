"""A program: the real operator or proxy, whose wall clock is as far off as a file says, from one call to the next.

    python -m tests.trust.jumping_clock operator|proxy FILE ARGUMENTS…

The file has a number of seconds; there need not be one. Clocks that only go forward are left alone, as in reality.
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path


class Offset:
    def __init__(self, path: str) -> None:
        self._path, self._read_at, self._seconds = path, -1, 0.0

    def __call__(self) -> float:
        try:
            changed = os.stat(self._path).st_mtime_ns
            if changed != self._read_at:
                self._seconds, self._read_at = float(Path(self._path).read_text()), changed
        except (FileNotFoundError, ValueError):  # there is none; or it is being written
            pass
        return self._seconds


def main() -> int:
    program, path, *arguments = sys.argv[1:]
    offset = Offset(path)
    if program == "operator":
        from oauth_pool_operator import cli as operator_cli

        real_now = operator_cli.now
        operator_cli.now = lambda: real_now() + timedelta(seconds=offset())
        return operator_cli.main(arguments)
    real_time = time.time
    time.time = lambda: real_time() + offset()  # before anything of the proxy takes hold of it
    from oauth_pool_proxy import cli as proxy_cli

    return proxy_cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
