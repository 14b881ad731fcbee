"""What is run beside the service: measurements, dashboards, images."""
