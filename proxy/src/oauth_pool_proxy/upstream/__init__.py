"""Everything that talks to the API: connections, TLS, addresses, headers."""
