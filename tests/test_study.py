"""All steps of a study on a tiny population."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.chapters.qualitative import make_triptychs
from s2f_lib.errors import ConfigError, DataError
from s2f_lib.evaluation.tables import distance_table, rank_table, recall_table
from s2f_lib.study import Study, paths_of_run, read_settings

TINY = {
    "source.synthetic.n_train": 10,
    "source.synthetic.n_test": 5,
    "source.synthetic.duration_s": 3.5,
    "preparation.workers": 2,
    "training.epochs": 2,
    "training.batch_size": 4,
    "training.validation_share": 0.2,
    "decoder.width": 0.0625,
    "decoder_training.epochs": 1,
    "decoder_training.batch_size": 4,
    "evaluation.recall_at": [1, 5],
    "evaluation.n_bootstrap": 50,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small run of the quick profile in a temporary workspace."""
    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2F_WORKSPACE", str(workspace))
        yield Study.open("quick", settings=TINY)


def test_clips_have_splits_and_features(study):
    assert len(study.clips) + study.preparation.n_refused == 15
    train, test = study.split("train"), study.split("test")
    assert len(train) >= 9
    assert len(test) >= 4
    assert not set(train.video_ids) & set(test.video_ids)
    assert train.audio.shape[1] == 6 * 16_000
    assert train.features.shape[1] == study.extractor.dimension == 128
    # stored features equal those of the stored faces, within float16
    np.testing.assert_allclose(study.extractor(test.crops()), test.features, atol=2e-3)
    with pytest.raises(DataError, match="no prepared clip is in split 'validation'"):
        study.split("validation")


def test_same_settings_are_prepared_once(study):
    again = Study.open("quick", settings=TINY)
    shards = {path: path.stat().st_mtime_ns for path in study.prepared_dir.glob("*.arrow")}
    assert shards
    assert again.prepared_dir == study.prepared_dir
    assert {path: path.stat().st_mtime_ns for path in again.prepared_dir.glob("*.arrow")} == shards


def test_every_loss_trains_and_fills_the_tables(study):
    pairs = {}
    for loss in study.config.training.losses:
        trained = study.encoder(loss)
        assert len(trained.metrics) == 2
        assert np.isfinite(trained.metrics["train_loss"]).all()
        pairs[loss] = study.features("test", loss)
        assert np.isfinite(pairs[loss].predicted).all()
    assert len({pair.predicted.tobytes() for pair in pairs.values()}) == len(pairs)
    distances = distance_table(pairs, study.config.evaluation)
    recall = recall_table(rank_table(pairs), study.config.evaluation)
    assert not distances.isna().any().any()
    assert not recall.isna().any().any()


def test_triptychs_are_faces_with_a_cosine(study):
    triptychs = make_triptychs(study)
    assert triptychs.original.shape == triptychs.from_voice.shape == triptychs.from_face.shape
    assert (np.abs(triptychs.cosine) <= 1).all()


def test_missing_source_setting_is_named(study):
    with pytest.raises(ConfigError, match=r"source.avspeech.csv is not set: .* -p source.avspeech.csv="):
        Study.open("quick", settings=TINY | {"source.kind": "avspeech"}).clips  # noqa: B018


def test_open_keeps_the_settings_of_a_run(tmp_path, caplog):
    first = Study.open("quick", run_dir=tmp_path, settings={"training.epochs": 3})
    stored = first.paths.settings.read_bytes()
    assert read_settings(first.paths.settings) == first.config
    again = {"training.epochs": 3, "preparation.workers": 2}
    assert Study.open("quick", run_dir=tmp_path, settings=again).config.preparation.workers == 2
    assert not caplog.messages
    assert Study.open("quick", run_dir=tmp_path).config.training.epochs == 11
    (message,) = caplog.messages
    assert "settings.yaml holds other settings than this study uses (training.epochs)" in message
    assert first.paths.settings.read_bytes() == stored
    first.paths.settings.write_text("training: {epoch: 3}\n")
    Study.open("quick", run_dir=tmp_path)
    assert "of another version" in caplog.messages[-1]


def test_changed_settings_have_a_separate_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path))
    plain = Study.open("quick")
    same = Study.open("quick", settings={"training.epochs": "11"})
    changed, other = (Study.open("quick", settings={"training.epochs": n}) for n in (1, 2))
    assert plain.paths.root == same.paths.root == tmp_path / "runs" / "quick"
    assert len({plain.paths.root, changed.paths.root, other.paths.root}) == 3
    assert {study.paths.models for study in (plain, changed, other)} == {plain.paths.root / "models"}
    assert read_settings(plain.paths.settings).training.epochs == 11
    assert read_settings(changed.paths.settings).training.epochs == 1
    assert paths_of_run(changed.config, changed.paths.root) == changed.paths


def test_changed_settings_train_in_a_new_folder(study):
    first = study.encoder("l1")
    again = Study.open("quick", settings=TINY | {"training.epochs": 1})
    other = again.encoder("l1")
    assert len(other.metrics) == 1
    assert other.folder != first.folder
    assert Study.open("quick", settings=TINY).encoder("l1").folder == first.folder
