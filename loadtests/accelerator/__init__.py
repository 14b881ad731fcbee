"""What a device makes of the models, without and with the service, in six minutes and one table."""
