"""What speaks with clients: the server, its protocol, one client, slots, the life of the service."""
