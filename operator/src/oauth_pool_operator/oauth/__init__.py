"""The token endpoint, its answers, and the ways to log in."""
