"""The state and access volumes: documents, durable files, the lock."""
