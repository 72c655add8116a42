"""The accounts: picking one, conversations, judging answers, the index, tokens, reports."""
