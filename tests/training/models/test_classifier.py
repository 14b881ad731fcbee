from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from PIL import Image

from eyestate.images import decode
from training.data.datasets import Crop, DataError, data_dir
from training.data.split import Split
from training.evaluation.eer import Scores
from training.models.classifier import (
    EyeClassifier,
    Settings,
    load_backbone,
    load_classifier,
    p_open,
    train,
)
from training.models.learner import predict, predict_views
from training.runs import history, outcome

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from tests.training.tiny import TinyNetwork
from training.data.split import split_mrl
from training.models import classifier

class Killed(classifier.EyeClassifier):
    def on_train_epoch_end(self):
        if self.current_epoch == 1:
            os.kill(os.getpid(), int(sys.argv[4]))
        super().on_train_epoch_end()

classifier.InceptionResnetV1, classifier.EyeClassifier = TinyNetwork, Killed
classifier.fastest_precision = lambda device: "32-true"
settings = classifier.Settings(backbone=sys.argv[2], input_side=96, epochs=3, crops_per_epoch=16, batch_size=8)
classifier.train(split_mrl(Path(sys.argv[1])), settings, Path(sys.argv[3]), device="cpu")
"""


def mirror(crop: Crop) -> Crop:
    file = io.BytesIO()
    Image.fromarray(decode(crop.data)[:, ::-1]).save(file, "PNG")
    return dataclasses.replace(crop, data=file.getvalue())


class TestBackbone:
    def test_fills_everything_but_the_logits(self, backbone: Path) -> None:
        network = InceptionResnetV1(classify=True, num_classes=2)
        logits = network.logits.weight.clone()
        load_backbone(network, str(backbone))
        stored = torch.load(backbone, weights_only=True)
        assert all(torch.equal(network.state_dict()[name], value.float()) for name, value in stored.items())
        assert torch.equal(network.logits.weight, logits)

    def test_missing_file(self) -> None:
        with pytest.raises(DataError, match="vggface2, casia-webface or a file"):
            load_backbone(InceptionResnetV1(classify=True, num_classes=2), "nonesuch.pt")

    def test_other_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(b"not a state_dict")
        with pytest.raises(DataError, match="no readable state_dict"):
            load_backbone(InceptionResnetV1(classify=True, num_classes=2), str(tmp_path / "x.pt"))

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "x.pt")
        with pytest.raises(DataError, match="no InceptionResnetV1 weights"):
            load_backbone(InceptionResnetV1(classify=True, num_classes=2), str(tmp_path / "x.pt"))

    def test_pickled_code_is_not_run(self, tmp_path: Path) -> None:
        class Malicious:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(tmp_path / "owned"),)

        torch.save(Malicious(), tmp_path / "x.pt")
        with pytest.raises(DataError, match="no readable state_dict"):
            load_backbone(InceptionResnetV1(classify=True, num_classes=2), str(tmp_path / "x.pt"))
        assert not (tmp_path / "owned").exists()

    @pytest.mark.shared
    def test_shared_weights(self) -> None:
        (path,) = (data_dir().parent / "weights").glob("*casia-webface*.pt")
        load_backbone(InceptionResnetV1(classify=True, num_classes=2), str(path))


class TestClassifier:
    def test_logits(self, small: Settings) -> None:
        model = EyeClassifier(dataclasses.asdict(small)).eval()
        crops = torch.randint(0, 256, (3, 75, 75), dtype=torch.uint8)
        with torch.inference_mode():
            logits = model(crops)
        assert logits.shape == (3, 2)
        assert torch.allclose(p_open(logits), logits.exp()[:, 1] / logits.exp().sum(1))

    def test_all_weights_are_trainable(self, small: Settings) -> None:
        assert all(parameter.requires_grad for parameter in EyeClassifier(dataclasses.asdict(small)).parameters())


class TestTraining:
    def test_leaves_a_loadable_best_checkpoint_and_a_history(self, run: Path, split: Split) -> None:
        model = load_classifier(outcome(run))
        assert not model.training
        scores = predict(model, split.test)
        assert scores.shape == (len(split.test),)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert list((run / "csv").glob("*/metrics.csv"))
        assert list((run / "tensorboard").glob("events*"))

    def test_every_epoch_can_be_continued_from(self, run: Path) -> None:
        """Not only those that improved: Lightning's save_last alone forgets the epochs since the best one."""
        last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["epoch"] == history(run)[-1]["epoch"]

    def test_same_seed_same_model(self, split: Split, tiny: Settings, tmp_path: Path) -> None:
        first, second = (load_classifier(train(split, tiny, tmp_path / name)) for name in ("first", "second"))
        np.testing.assert_allclose(predict(first, split.test), predict(second, split.test), atol=1e-3)
        assert history(tmp_path / "first") == history(tmp_path / "second")

    def test_fine_tuning_starts_at_another_run_and_keeps_the_last_epoch(
        self, tiny_run: Path, split: Split, tiny: Settings, tmp_path: Path
    ) -> None:
        settings = dataclasses.replace(tiny, learning_rate=1e-12, patience=0)
        checkpoint = train(split, settings, tmp_path / "run", start=tiny_run)
        assert checkpoint.name == "last.ckpt"
        before, after = (load_classifier(outcome(path)).network.logits.weight for path in (tiny_run, tmp_path / "run"))
        assert torch.allclose(before, after, atol=1e-6)

    def test_ten_steps(self, split: Split, tiny: Settings, tmp_path: Path) -> None:
        """A tenth of them to rise in is one step, which OneCycleLR divides by its length less one."""
        settings = dataclasses.replace(tiny, crops_per_epoch=20, batch_size=2, patience=0)
        train(split, settings, tmp_path / "run")
        assert len(history(tmp_path / "run")) == 1

    def test_from_no_run(self, split: Split, small: Settings, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no trained classifier"):
            train(split, small, tmp_path / "run", start=tmp_path)

    def test_views_are_scores(self, run: Path, split: Split) -> None:
        model = load_classifier(outcome(run))
        scores = predict_views(model, split.test)
        assert scores.shape == (len(split.test),)
        assert ((scores >= 0) & (scores <= 1)).all()
        mirrored = [mirror(crop) for crop in split.test]
        np.testing.assert_allclose(predict_views(model, mirrored), scores, atol=1e-3)

    @pytest.mark.parametrize("score", [predict, predict_views])
    def test_no_crops_have_no_scores(self, run: Path, score: Callable[..., Scores]) -> None:
        scores = score(load_classifier(outcome(run)), [])
        assert scores.shape == (0,)
        assert scores.dtype == np.float64

    @pytest.mark.parametrize("end", [(signal.SIGKILL, -9, [0]), (signal.SIGTERM, 143, [0, 1])])
    def test_continues_after_a_kill(
        self, mrl: Path, split: Split, tiny: Settings, tmp_path: Path, end: tuple[int, int, list[int]]
    ) -> None:
        sent, status, epochs = end
        output = tmp_path / "run"
        command = [sys.executable, "-c", KILLED_RUN, str(mrl), tiny.backbone, str(output), str(int(sent))]
        killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert killed.returncode == status, killed.stderr
        before = history(output)
        assert [row["epoch"] for row in before] == epochs

        train(split, dataclasses.replace(tiny, epochs=3), output)
        assert [row["epoch"] for row in history(output)] == [0, 1, 2]
        assert history(output)[: len(before)] == before  # done once, not done again
