"""`kubectl oauthaccount`: the pool from a person's terminal. Runs on that person's machine, with nothing of the operator.

What it shares with the operator are names in the API (`names`, `conditions`), which tests/test_contract/ compares.
"""
