"""Who is asking: by which proof a client is known, and what it may. Imported only where the configuration has `[clients]`."""
