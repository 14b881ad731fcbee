"""Load measurements: the service beside others, execution on CPU and GPU, and runs that try to break it."""
