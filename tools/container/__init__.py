"""The container image: built by whatever engine there is, tried as a cluster would run it, and listed in an SBOM."""
