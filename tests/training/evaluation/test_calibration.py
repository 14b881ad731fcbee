from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from training.evaluation.calibration import (
    AS_TRAINED,
    ISOTONIC,
    TEMPERATURE,
    apply_temperature,
    choose_temperature,
    compare,
    error,
    errors,
    fit_temperature,
    log_loss,
    section,
)
from training.evaluation.eer import Labels, Scores

PEOPLE = [f"s{number % 5}" for number in range(5_000)]


@pytest.fixture
def fair() -> tuple[Scores, Labels]:
    """Scores that are probabilities, and labels drawn by them."""
    random = np.random.default_rng(0)
    scores = 1 / (1 + np.exp(-random.normal(0, 3, len(PEOPLE))))
    return scores, (random.random(len(PEOPLE)) < scores).astype(np.int64)


def sharpened(scores: npt.NDArray[np.float64], by: float) -> npt.NDArray[np.float64]:
    return apply_temperature(scores, 1 / by)


def test_finds_the_temperature_of_overconfident_scores(fair: tuple[Scores, Labels]) -> None:
    scores, labels = fair
    assert fit_temperature(scores, labels) == pytest.approx(1, abs=0.07)
    assert fit_temperature(sharpened(scores, 3), labels) == pytest.approx(3, abs=0.2)


def test_cooling_makes_scores_fit_and_keeps_their_order(fair: tuple[Scores, Labels]) -> None:
    scores, labels = fair
    sure = sharpened(scores, 3)
    calm = apply_temperature(sure, fit_temperature(sure, labels))
    assert error(calm, labels) < 0.02 < error(sure, labels)
    assert log_loss(calm, labels) < log_loss(sure, labels)
    assert (np.diff(calm[np.argsort(sure)]) >= 0).all()


def test_a_temperature_is_chosen_where_it_helps_unseen_subjects(fair: tuple[Scores, Labels]) -> None:
    scores, labels = fair
    sure = sharpened(scores, 3)
    fits = {fit.method: fit for fit in compare(sure, labels, PEOPLE)}
    assert list(fits) == [AS_TRAINED, TEMPERATURE, ISOTONIC]
    assert fits[TEMPERATURE].loss < fits[AS_TRAINED].loss
    assert choose_temperature(sure, labels, PEOPLE) == pytest.approx(3, abs=0.2)


def test_scores_stay_where_a_temperature_helps_no_stranger() -> None:
    """Two people, one of whom the network is too sure of and one of whom it is not sure enough."""
    random = np.random.default_rng(1)
    truth = 1 / (1 + np.exp(-random.normal(0, 3, 4_000)))
    labels = (random.random(4_000) < truth).astype(np.int64)
    scores = np.concatenate([sharpened(truth[:2_000], 2), sharpened(truth[2_000:], 0.5)])
    assert choose_temperature(scores, labels, ["s1"] * 2_000 + ["s2"] * 2_000) == 1


def test_one_subject_alone_cannot_be_tested_on(fair: tuple[Scores, Labels]) -> None:
    assert choose_temperature(sharpened(fair[0], 3), fair[1], ["s1"] * len(PEOPLE)) == 1


def test_section_names_every_figure(fair: tuple[Scores, Labels]) -> None:
    found = errors(*fair, *fair)
    text = section(compare(*fair, PEOPLE), {"new people": found})
    assert "ECE, new people |" in text
    assert f"{found[TEMPERATURE]:.4f} |" in text
    assert all(f"| {method} |" in text for method in (AS_TRAINED, TEMPERATURE, ISOTONIC))
