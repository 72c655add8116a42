"""The API server: objects, the Lease and who leads, the pool index."""
