"""The HTTP service: what stands between a socket and the model runtime."""
