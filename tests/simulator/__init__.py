"""The provider, as a program: OAuth endpoints, the messages API and switches that make either of them misbehave.

Tests use `server.SimulatorServer`; a person runs `python -m tests.simulator` (or, inside `tests/`, `python -m simulator`).
`--help` lists every switch and the control API. What is where:

  /oauth/authorize, /v1/oauth/token, /v1/oauth/revoke            logging in, refreshing, workload identity
  /v1/messages, /v1/messages/count_tokens, /v1/models[/ID]       the API, with limits per account and tool use
  /_simulator/…                                                  approve logins, change behaviour, look at requests

It exists for tests and demonstrations only: everything under `/_simulator/` is open to whoever reaches the port.
"""
