"""Drawn eye crops: a seeded generator for examples and tests that must run without real data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from eyestate.arrays import Pixels

Field = npt.NDArray[np.float64]  # one value per pixel of the supersampled canvas

SIDE: Final = 64  # pixels, as in MRL
SUPERSAMPLING: Final = 4
CLOSED: Final = (0.0, 0.05)  # ranges of the opening in labelled crops
OPEN: Final = (0.6, 1.0)
OPEN_FROM: Final = 0.5  # the opening from which an eye counts as open
FILMSTRIP_STEPS: Final = 9


@dataclass(frozen=True, slots=True)
class Eye:
    """A drawn eye.

    Lengths are in half widths of the eye (corner to corner is 2) and y points down, unless said otherwise. Tones run
    from 0 (black) to 1 (white), strengths from 0 (absent) to 1.
    """

    opening: float  # 0 (closed) to 1 (fully open)

    nose_right: bool  # the nose is on the right of the crop, else on the left
    centre_x: float  # of the eye, in half sides of the crop from its middle
    centre_y: float
    half_width: float  # of the eye, in half sides of the crop
    tilt: float  # radians

    rise: float  # of the upper lid over the corners when fully open
    droop: float  # of the lower lid below the corners
    fold: float  # from the open upper lid to the crease above it
    crease: float  # strength
    lash_line: float  # strength
    lash_length: float

    gaze_x: float
    gaze_y: float
    iris_radius: float
    pupil: float  # radius, in iris radii
    iris_tone: float
    sclera_tone: float
    glint: float  # tone of the lamp's reflection in the cornea; above 1 it outshines white

    brow: float  # strength
    brow_height: float  # over the corners
    brow_thickness: float
    glasses: float  # strength of the frame; 0 is none

    skin_tone: float
    light: float  # gain of everything
    light_x: float  # change of the gain per half side of the crop, to the right
    light_y: float
    socket: float  # strength of the shadow towards nose and brow
    contrast: float  # of everything against the skin
    blur: float  # standard deviation, in sides of the crop
    noise: float  # standard deviation, as a tone
    grain: int  # seed of mottling and noise


def random_eye(rng: np.random.Generator, opening: float) -> Eye:
    """An eye with the given opening, 0 to 1, and everything else drawn from ``rng``, independently of the opening."""
    between = rng.uniform
    return Eye(
        opening=opening,
        nose_right=bool(rng.integers(2)),
        centre_x=between(-0.12, 0.12),
        centre_y=between(0.0, 0.2),
        half_width=between(0.5, 0.75),
        tilt=between(-0.15, 0.15),
        rise=between(0.4, 0.55),
        droop=between(0.2, 0.32),
        fold=between(0.12, 0.25),
        crease=between(0.1, 0.5),
        lash_line=between(0.45, 0.85),
        lash_length=between(0.15, 0.35),
        gaze_x=between(-0.25, 0.25),
        gaze_y=between(-0.06, 0.06),
        iris_radius=between(0.34, 0.42),
        pupil=between(0.3, 0.5),
        iris_tone=between(0.15, 0.35),
        sclera_tone=between(0.5, 0.75),
        glint=between(0.3, 1.5),
        brow=between(0.2, 0.7),
        brow_height=between(0.95, 1.25),
        brow_thickness=between(0.15, 0.3),
        glasses=between(0.4, 0.8) * rng.binomial(1, 0.15),
        skin_tone=between(0.45, 0.65),
        light=between(0.5, 1.2),
        light_x=between(-0.2, 0.2),
        light_y=between(-0.1, 0.15),
        socket=between(0.15, 0.5),
        contrast=between(0.7, 1.0),
        blur=between(0.004, 0.02),
        noise=between(0.002, 0.015),
        grain=int(rng.integers(2**32)),
    )


def render(eye: Eye, side: int = SIDE) -> Pixels:
    """Draw the eye: uint8 (side, side), grey, 0 black to 255 white; equal eyes give equal pixels."""
    rng = np.random.default_rng(eye.grain)
    canvas = Image.fromarray(_to_uint8(_paint(eye, _mottling(rng, side * SUPERSAMPLING))))
    lens = ImageFilter.GaussianBlur(eye.blur * canvas.width)
    exposed = np.asarray(canvas.filter(lens).reduce(SUPERSAMPLING)) / 255
    return _to_uint8(exposed + rng.normal(0, eye.noise, exposed.shape))


def labelled(count: int, seed: int) -> list[tuple[Pixels, int]]:
    """Crops uint8 (64, 64) with their labels, in turn closed (0, opening 0 to 0.05) and open (1, opening 0.6 to 1)."""
    rng = np.random.default_rng(seed)
    eyes = (random_eye(rng, rng.uniform(*(OPEN if index % 2 else CLOSED))) for index in range(count))
    return [(render(eye), int(eye.opening >= OPEN_FROM)) for eye in eyes]


def filmstrip(eye: Eye) -> Pixels:
    """The eye closing from left to right in ``FILMSTRIP_STEPS`` steps: uint8 (64, 64 · steps)."""
    openings = np.linspace(1, 0, FILMSTRIP_STEPS)
    return np.hstack([render(replace(eye, opening=float(opening))) for opening in openings])


def _paint(eye: Eye, mottling: Field) -> Field:
    x, y = _crop_grid(len(mottling))
    u, v = _eye_grid(eye, x, y)
    lower = eye.droop * _arch(u)
    upper = lower - eye.opening * (eye.rise * _arch(u + 0.12 * _arch(u)) + lower)
    canvas = _skin(eye, u, v) * mottling
    canvas *= _lid_relief(eye, u, v, upper, lower)
    gap = np.clip(np.minimum(v - upper, lower - v) / 0.04, 0, 1)
    canvas += gap * (_eyeball(eye, u, v, upper) - canvas)
    canvas *= 1 - _lashes(eye, u, v, upper, lower)
    canvas *= 1 - eye.glasses * _frame(u, v)
    light = eye.light * (1 + eye.light_x * x + eye.light_y * y)
    return light * (eye.skin_tone + eye.contrast * (canvas - eye.skin_tone))


def _crop_grid(side: int) -> tuple[Field, Field]:
    """x and y of the pixel centres, -1 to 1 from the left and upper edge to the right and lower."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(axis, axis)
    return x, y


def _eye_grid(eye: Eye, x: Field, y: Field) -> tuple[Field, Field]:
    """Crop coordinates in the eye's own: corners at (-1, 0), towards the nose, and (1, 0)."""
    x, y = (x - eye.centre_x) / eye.half_width, (y - eye.centre_y) / eye.half_width
    u = x * np.cos(eye.tilt) + y * np.sin(eye.tilt)
    v = y * np.cos(eye.tilt) - x * np.sin(eye.tilt)
    return (-u if eye.nose_right else u), v


def _skin(eye: Eye, u: Field, v: Field) -> Field:
    """Skin with brow and the shadow of the eye socket."""
    socket = np.maximum(_stroke(np.hypot(u + 1.3, v + 0.5), 0.8), 0.5 * _stroke(v + 0.75, 0.4))
    brow_line = -eye.brow_height + 0.16 * (u - 0.2) ** 2
    thickness = eye.brow_thickness * np.clip(1 - 0.3 * u, 0.4, 1.2)
    hairs: Field = 0.9 + 0.1 * np.sin(30 * u + 20 * v + 3 * np.sin(7 * u))
    brow = _stroke(v - brow_line, thickness) * _inside(np.abs(u - 0.05) - 1.3, 0.15) * hairs
    return eye.skin_tone * (1 - eye.socket * socket) * (1 - eye.brow * brow)


def _lid_relief(eye: Eye, u: Field, v: Field, upper: Field, lower: Field) -> Field:
    """Gain of the skin around the lids: crease, light on the closed lid's bulge, shadow below the lower lid."""
    crease_line = -(eye.rise + eye.fold) * _arch(0.85 * u)
    crease = _stroke(v - crease_line, 0.06) * _inside(np.abs(u) - 1.05, 0.05)
    bulge = _stroke(v - (crease_line + upper) / 2, 0.2) * _arch(u)
    bag = _stroke(v - lower - 0.22, 0.1) * _arch(u)
    shades = 1 - eye.crease * (0.3 + 0.7 * eye.opening) * crease
    return shades * (1 + 0.15 * (1 - eye.opening) * bulge) * (1 - 0.12 * bag)


def _eyeball(eye: Eye, u: Field, v: Field, upper: Field) -> Field:
    """Sclera, iris with a darker limbus, pupil and glint, in the shade of the upper lid."""
    iris_u, iris_v = u - eye.gaze_x, v - eye.gaze_y - (eye.droop - eye.rise) / 2
    radius = np.hypot(iris_u, iris_v) / eye.iris_radius
    iris = eye.iris_tone * (1 - 0.5 * _stroke(radius - 1, 0.2)) * (1 - 0.75 * _inside(radius - eye.pupil, 0.04))
    ball = eye.sclera_tone * (1 - 0.3 * u * u)
    ball += _inside(radius - 1, 0.04) * (iris - ball)
    ball *= 1 - 0.5 * _stroke(v - upper, 0.2)
    return ball + eye.glint * _stroke(np.hypot(iris_u - 0.06, iris_v + 0.04), 0.08)


def _lashes(eye: Eye, u: Field, v: Field, upper: Field, lower: Field) -> Field:
    """Darkness of the lid edges and of the lashes, which point down when the eye is closed and up when it is open."""
    above = (upper - v) / eye.lash_length
    down = (1 - eye.opening) * _comb(u, -above)
    up = eye.opening * _comb(u, above)
    edges = np.maximum(_stroke(v - upper, 0.07 + 0.03 * u.clip(-1, 1)), 0.3 * _stroke(v - lower, 0.05))
    return eye.lash_line * _inside(np.abs(u) - 0.95, 0.06) * np.maximum(edges, 0.8 * (up + down))


def _comb(u: Field, along: Field) -> Field:
    """Hairs that fan out from their roots (``along`` 0) and fade to their tips (``along`` 1)."""
    hairs = 0.7 + 0.3 * np.cos(45 * u / (1 + 0.25 * along.clip(0, 1)))
    return hairs * _arch(along) * (along > 0)


def _frame(u: Field, v: Field) -> Field:
    """The rim of a lens: a rounded rectangle."""
    return _stroke(((u / 1.5) ** 4 + ((v - 0.15) / 1.05) ** 4) ** 0.25 - 1, 0.06)


def _mottling(rng: np.random.Generator, side: int) -> Field:
    """Uneven skin: a smooth random gain around 1, (side, side)."""
    coarse = Image.fromarray(rng.normal(1, 0.03, (8, 8)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)


def _arch(u: Field) -> Field:
    """A parabola: 1 at 0, falling to 0 at -1 and 1 and staying there."""
    return (1 - u * u).clip(0, 1)


def _stroke(distance: Field, width: Field | float) -> Field:
    """A soft line: 1 at distance 0, fading on either side."""
    return np.exp(-((distance / width) ** 2))


def _inside(distance: Field, softness: float) -> Field:
    """A soft edge: 1 where the distance is negative, 0 where it is positive."""
    return 0.5 - 0.5 * np.tanh(distance / softness)


def _to_uint8(tones: Field) -> Pixels:
    return np.round(tones.clip(0, 1) * 255).astype(np.uint8)
