"""`kubectl oauthaccount`: the pool from a person's terminal. Runs on that person's machine and is no part of the operator.

It needs the extra `plugin`. From the operator's own modules it takes names and pure functions, never Kopf or the store.
"""
