"""Resumable batch jobs: millions of crops, scored by a service, into Parquet parts.

Data flow one way: ``inputs.py`` cuts the input into parts, ``engine.py`` has a part's rows scored by the service,
``outputs.py`` writes parts and manifest, ``job.py`` puts the three together; ``ray_engine.py`` does what ``engine.py``
does on the machines of a Ray cluster.
"""
