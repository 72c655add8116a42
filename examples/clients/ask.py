"""The Python SDK with a token in a file. The kubelet replaces the file in time: a client that lives for long reads it again."""

from pathlib import Path

import anthropic

TOKEN = Path("/var/run/secrets/oauth-pool/token")

client = anthropic.Anthropic(auth_token=TOKEN.read_text().strip())
message = client.messages.create(
    model="claude-haiku-4-5", max_tokens=100, messages=[{"role": "user", "content": "Hello"}]
)
print(message.content)  # noqa: T201 - it is an example
