"""``python -m training``: every step from crops to a shipped model."""

from __future__ import annotations

import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from eyestate.cli import Commands

# Short help of each command, by module.
_MODULES: Final = {
    "training.commands.describe": {
        "describe": "Count MRL's crops by label, subject and attribute, and list the files that are left out.",
    },
    "training.commands.generate": {
        "generate": "Draw synthetic eye crops: open_0000.jpg, closed_0000.jpg and so on.",
    },
    "training.commands.train": {
        "train": "Train kaggle_model on MRL, split by subject, and draw its loss and EER by epoch.",
    },
    "training.commands.cluster": {
        "features": "Extract features of the unlabelled crops with dlib's face network, VGG-Face and FaceNet.",
        "cluster": "Cluster each feature set by four algorithms, default and tuned, and mark the good clusterings.",
        "consensus": "Label the crops on which all good clusterings agree; also by majority, and if confirmed.",
    },
    "training.commands.fine_tune": {
        "fine-tune": "Fine-tune a network on labelled crops of the unlabelled set alone, as the baseline does.",
    },
    "training.commands.pseudo_label": {
        "score": "Score the unlabelled crops with a trained network, averaged over four views of each.",
        "pseudo-label": "Label the other crops that a network is sure of, and queue the rest for a person.",
    },
    "training.commands.committee": {
        "committee": "Train a cross-validation committee: five networks, "
        "each of which never sees a fifth of the people.",
    },
    "training.commands.ablate": {
        "ablate": "Train short variants of a committee's member with several seeds, "
        "and judge each by people it never saw.",
    },
    "training.label.command": {
        "label": "Ask people whether the eye in each crop of a queue is open.",
    },
    "training.commands.distil": {
        "distillation-set": "Draw views of crops, "
        "and record the log-odds of a committee's members for a small network.",
        "search-student": "Search the hyperparameters of a distillation by short ones.",
        "distil": "Train a network of a hundredth of the cost on a distillation set, and one a fold to judge it by.",
    },
    "training.commands.export": {
        "export": "Judge a trained network by strangers and held-out crops, "
        "and write its bundle; `card` writes its model card.",
        "cascade": "Choose the deferral band, evaluate both networks together and write the cascade's bundle.",
        "export-detector": "Write models/mtcnn, the face detector, from the weights that facenet-pytorch ships.",
        "card": "Render a bundle's model card from its manifest and its results in reports/.",
    },
    "training.commands.evaluate": {
        "compare": "Compare all networks on crops that none was trained on: "
        "held-out ones, and people that each had never seen.",
        "calibration": "Measure how well a bundle's scores are calibrated; `card` puts the results into its card.",
        "behaviour": "Test which changes of a crop alter a bundle's verdict, and which must lower its score.",
        "drift-examples": "Measure how far changed crops, and those of other people, "
        "are from a bundle's reference for drift.",
        "quality-limits": "Measure a bundle's errors on crops made darker, brighter, more blurred and smaller.",
    },
    "training.commands.report": {
        "report": "Render the results of all stages: a page with crops, and Markdown without them.",
    },
}
COMMANDS: Final = {name: (module, text) for module, texts in _MODULES.items() for name, text in texts.items()}
TIMINGS: Final = Path("runs/timings.json")


class LazyGroup(Commands):
    """The commands of ``COMMANDS``, each imported when it is used: PyTorch and the others take seconds.

    Run as a stage of the pipeline, they record how long they took.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        members = vars(import_module(COMMANDS[cmd_name][0])).values()
        return next(each for each in members if isinstance(each, click.Command) and each.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        started = time.monotonic()
        result = super().invoke(ctx)
        if stage := os.environ.get("DVC_STAGE"):
            from training.runs import record_time  # noqa: PLC0415  # imports PyTorch

            record_time(TIMINGS, f"{stage}: {ctx.invoked_subcommand}", time.monotonic() - started)
        return result


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train, evaluate and export open/closed-eye classifiers.

    Data sets are read from $EYESTATE_DATA (default: ../shared/data). Runs are written to runs/, which git ignores; an
    interrupted command continues where it stopped when it is given again. `dvc repro` runs the commands in order and
    skips those that are up to date; params.yaml holds their parameters.
    """


if __name__ == "__main__":
    main(prog_name="python -m training")
