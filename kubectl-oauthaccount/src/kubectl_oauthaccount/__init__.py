"""`kubectl oauthaccount`: the pool in a terminal. Runs on a person's machine, without any code of the operator.

What it shares with the operator are names in the API (`names`, `conditions`), which tests/test_contract/ compares.
"""
