"""The same model and the same preprocessing behind other servers, each set up as its own documentation says."""
