"""A web page on which people say of each crop in a queue whether the eye is open."""
