"""The accounts: whose turn it is, conversations, judgement of answers, the index, tokens, reports."""
