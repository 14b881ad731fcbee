"""The Open Inference Protocol (KServe, Triton) over REST, under ``/v2``."""
