"""What the parsed options become."""

from pathlib import Path

import pytest

from experiments.command_line.options import train_config
from experiments.train import build_parser
from seg.errors import UserError


def test_a_file_that_the_options_name_must_be_there(tmp_path: Path) -> None:
    weights = tmp_path / "resnet50.h5"
    values = build_parser().parse_args(["--encoder", "resnet50", "--encoder_weights", str(weights)])
    with pytest.raises(UserError, match="encoder_weights must be a file that is there, got '.*resnet50.h5'; give its"):
        train_config(values)
    weights.touch()
    assert train_config(values).encoder_weights == str(weights)


def test_no_file_is_looked_for_without_one() -> None:
    values = build_parser().parse_args(["--encoder", "resnet50", "--encoder_weights", "imagenet"])
    assert train_config(values).encoder_weights == "imagenet"
