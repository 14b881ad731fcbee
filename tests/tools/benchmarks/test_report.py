from __future__ import annotations

from tools.benchmarks.candidates import CASCADE, FINAL_BEST, LITE, OCEC_P, OPENVINO
from tools.benchmarks.cost import Cost
from tools.benchmarks.report import Report, Row, SetSummary, Target, targets
from tools.benchmarks.speed import ONNX_RUNTIME, Roofline, Speed
from training.evaluation.intervals import Interval


def row(name: str, difference: float | None = None, stranger: float | None = None) -> Row:
    return Row(
        name=name,
        licence="MIT",
        note="",
        chosen_region={},
        region_eers={},
        cost=Cost(1, 1, 1, 1, 1),
        memory=1,
        eer={} if stranger is None else {"mrl": Interval(stranger, stranger, stranger)},
        from_manifest=[] if stranger is None else ["mrl"],
        difference={} if difference is None else {"held_out": Interval(difference, difference, difference)},
        deferred={},
    )


def speed(name: str, batch: int, value: float) -> Speed:
    return Speed(name, ONNX_RUNTIME, batch, value, value, value)


def report(rows: list[Row], speeds: list[Speed], mix: list[Speed]) -> Report:
    return Report(
        about={},
        device="cpu",
        evaluation_sets=[
            SetSummary(name="held_out", what="held-out crops", crops=4, open=2, subjects=None),
            SetSummary(name="mrl", what="MRL", crops=4, open=2, subjects=2),
        ],
        rows=rows,
        missing={},
        baseline_memory=1,
        speeds=speeds,
        mix=mix,
        mix_crops=4,
        mix_deferred=None,
        roofline=Roofline(1, 1),
    )


def verdicts(found: Report) -> dict[str, Target]:
    names = ("close", "fast", "fastest", "equal", "cascade")
    return dict(zip(names, targets(found), strict=True))


def test_targets_met() -> None:
    speeds = [
        *(speed(FINAL_BEST, 1, 50), speed(FINAL_BEST, 8, 100)),
        *(speed(LITE, 1, 2000), speed(LITE, 8, 10_000)),
        *(speed(OPENVINO, 1, 1999), speed(OPENVINO, 8, 1), speed(OCEC_P, 1, 1), speed(OCEC_P, 8, 9999)),
    ]
    mix = [speed(FINAL_BEST, 8, 100), speed(CASCADE, 8, 2000)]
    found = verdicts(report([row(FINAL_BEST), row(LITE, 0.005), row(CASCADE, 0.001)], speeds, mix))
    assert all(target.held for target in found.values())
    assert found["fast"].found == "100.0 ×; at equal batch sizes 40.0 × at 1, 100.0 × at 8"
    assert found["fastest"].found == f"1.00 × {OPENVINO} at 1, 1.00 × {OCEC_P} at 8"
    assert found["close"].found == "+0.0050 (+0.0050 to +0.0050) on held-out crops"


def test_targets_missed() -> None:
    speeds = [speed(FINAL_BEST, 8, 100), speed(LITE, 8, 9999), speed(OCEC_P, 8, 10_000)]
    mix = [speed(FINAL_BEST, 8, 100), speed(CASCADE, 8, 1999)]
    found = verdicts(report([row(FINAL_BEST), row(LITE, 0.0051), row(CASCADE, 0.0011)], speeds, mix))
    assert [target.held for target in found.values()] == [False] * 5


def test_people_never_seen_count_too() -> None:
    rows = [row(FINAL_BEST, stranger=0.02), row(LITE, 0.001, 0.0228), row(CASCADE, 0.001, 0.0228)]
    found = verdicts(report(rows, [speed(FINAL_BEST, 8, 100)], []))
    assert (found["close"].held, found["equal"].held) == (True, False)
    assert found["equal"].found == "+0.0010 (+0.0010 to +0.0010) on held-out crops; +0.0028 on MRL, people never seen"


def test_people_are_compared_only_where_both_manifests_have_them() -> None:
    found = verdicts(report([row(FINAL_BEST), row(LITE, 0.001, 0.9)], [speed(FINAL_BEST, 8, 100)], []))
    assert found["close"].found == "+0.0010 (+0.0010 to +0.0010) on held-out crops"


def test_targets_not_measured() -> None:
    found = verdicts(report([row(FINAL_BEST)], [speed(FINAL_BEST, 8, 100)], []))
    assert [(target.held, target.found) for target in found.values()] == [(None, "not measured")] * 5
