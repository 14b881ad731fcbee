"""A web page on which people label the crops of a queue: open, closed, or can't tell."""
