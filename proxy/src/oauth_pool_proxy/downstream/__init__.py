"""Everything that talks to clients: the server, its protocol, one client, slots, the service life cycle."""
