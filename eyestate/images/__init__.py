"""Image bytes to validated pixels: the one decoder of the service, the commands, training and evaluation."""

from eyestate.images.decoding import decode, decode_rgb, header_pixels, read
from eyestate.images.limits import FORMATS, MAX_BYTES, MAX_SIDE, MIN_SIDE, SUFFIXES, check_size
from eyestate.images.resize import luma, shrunk, to_input, to_inputs

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_SIDE",
    "MIN_SIDE",
    "SUFFIXES",
    "check_size",
    "decode",
    "decode_rgb",
    "header_pixels",
    "luma",
    "read",
    "shrunk",
    "to_input",
    "to_inputs",
]
