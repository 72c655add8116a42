"""Crash trials: the real operator process, killed with SIGKILL at random instants around rotations, and judged each time.

`rig.py` is one operator with everything around it, and how it is struck; `evidence.py` says how far an account had come when the
kill fell; `verdict.py` says what must hold. `python -m tests.test_operator.crash_trials --help` lists the options.
"""
