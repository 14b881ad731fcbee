"""The container image: build it with any engine, test it as a cluster would run it, list its contents as an SBOM."""
