"""What the proxy tells about itself: metrics, log lines, health."""
