import logging

# torch says at its import that it misses Triton, which only torch.compile needs.
logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
