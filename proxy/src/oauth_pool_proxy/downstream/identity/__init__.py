"""Client identity: how clients prove who they are, and what each may do. Imported only if the configuration has `[clients]`."""
