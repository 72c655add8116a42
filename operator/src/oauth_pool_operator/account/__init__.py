"""One account: what is asked for, what is known, and what follows from it. No I/O."""
