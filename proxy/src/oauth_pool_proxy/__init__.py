"""A streaming proxy in front of an LLM API that spreads requests over a pool of OAuth accounts."""
