"""The labelling page, on which people say whether the eye in a crop is open, and the command that serves it."""
