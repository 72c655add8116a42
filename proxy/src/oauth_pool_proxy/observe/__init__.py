"""What is told of the proxy: metrics, log lines, health."""
