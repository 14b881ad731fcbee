"""A release: all that a version is published as, in one folder, with checksums and signatures."""
