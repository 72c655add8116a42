"""What speaks with the API: connections, TLS, addresses, headers."""
