"""Draw docs/images/filmstrip.png: a rendered eye closing, with the shipped model's score at each step.

Run with ``.venv/bin/python -m tools.filmstrip``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import eyestate
from training.data.synthetic import random_eye, render

STEPS = 9
SEED = 6


def main() -> None:
    scorer = eyestate.load()
    eye = random_eye(np.random.default_rng(SEED), opening=1.0)
    frames = [render(dataclasses.replace(eye, opening=float(opening))) for opening in np.linspace(1, 0, STEPS)]
    figure = Figure(figsize=(STEPS, 1.45), layout="constrained")
    for axes, frame, score in zip(figure.subplots(1, STEPS), frames, scorer.score(frames).tolist(), strict=True):
        axes.imshow(frame, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{score:.3f}\n{scorer.state(score)}", fontsize=9)
        axes.axis("off")
    figure.savefig(
        Path(__file__).parents[1] / "docs" / "images" / "filmstrip.png", dpi=100, metadata={"Software": None}
    )


if __name__ == "__main__":
    main()
