"""A Kubernetes operator that keeps a pool of OAuth accounts logged in and publishes it to proxies."""
