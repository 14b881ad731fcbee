"""Load tests: scenarios, capacity, other servers, devices and precisions, fault injection."""
