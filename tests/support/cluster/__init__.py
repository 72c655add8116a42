"""A real cluster, for the end-to-end tests: the product on it as a user deploys it, a provider beside it, and clients.

Which cluster is said by KUBECONFIG; `python -m tests.e2e.cluster` makes one when there is none, and the images.
"""
