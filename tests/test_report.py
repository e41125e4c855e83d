"""The entry point writes the report and logs it."""

from pathlib import Path

import mlflow
import pytest

from experiments import report
from experiments.storage.study_identity import StudyIdentity
from experiments.storage.study_store import open_study
from experiments.tracking.tracker import Tracker
from seg.data.manifest import Manifest
from seg.errors import UserError
from tests.study_setting import make_space
from tests.study_workspace import write_workspace


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one finished trial in a real storage, and its run in a real MLflow store."""
    home = tmp_path_factory.mktemp("home")
    write_workspace(home / "workspace")
    manifest = Manifest.load(home / "workspace" / "datasets" / "tiny-0")
    identity = StudyIdentity(
        study="unet", dataset_key="tiny-0", dataset_name="tiny", split="official", space=make_space()
    )
    with open_study(f"sqlite:///{home / 'optuna.db'}", identity) as store:
        store.set_parent_run(Tracker(f"sqlite:///{home / 'mlflow.db'}", None).start_study("unet", {}, manifest))
        store.ask(make_space().arms()[0])
        store.report(0, 1, 0.5)
        store.complete(0, 0.5)
    return home


class TestEntryPoint:
    @pytest.fixture
    def arguments(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        storage = f"sqlite:///{home / 'optuna.db'}"
        return [f"--storage={storage}", f"--workspace={home / 'workspace'}", f"--output={tmp_path / 'out'}"]

    def test_written_and_logged(
        self, home: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert report.main(arguments) == 0
        assert f"report: {tmp_path / 'out' / 'report.html'}" in capsys.readouterr().out
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert (tmp_path / "out" / "audit" / "audit.html").is_file()
        client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
        experiments = [entry.experiment_id for entry in client.search_experiments()]
        (run,) = client.search_runs(experiments, "tags.study = 'unet'")
        logged = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
        assert Path(logged).read_text(encoding="utf-8") == page

    def test_output_that_cannot_be_written(self, arguments: list[str], tmp_path: Path) -> None:
        (tmp_path / "out").write_text("")
        with pytest.raises(UserError, match="output must be a folder that can be written"):
            report.main(arguments)

    def test_a_study_that_is_not_there(self, arguments: list[str]) -> None:
        with pytest.raises(UserError, match="study must be one of unet, got 'other'"):
            report.main([*arguments, "--study=other"])
