"""The provider, as a program: OAuth endpoints, the messages API and switches that make either of them misbehave.

Tests use `server.SimulatorServer`; a person runs `python -m tests.simulator` (or, inside `tests/`, `python -m simulator`).
It exists for tests and demonstrations only: everything under `/_simulator/` is open to whoever reaches the port.
"""
