"""Profiles, overrides and refused settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s2f_lib.config import (
    SpectrogramConfig,
    StudyConfig,
    load_config,
    profile_names,
    setting_keys,
)
from s2f_lib.errors import ConfigError, InputError


def test_load_config_accepts_every_profile():
    assert {"quick", "avspeech", "gpu"} <= set(profile_names())
    for name in profile_names():
        assert load_config(name).profile == name


def test_profiles_list_only_changed_settings():
    defaults = StudyConfig().model_dump(mode="json")
    for name in profile_names():
        resolved = load_config(name).model_dump(mode="json")
        text = (Path(__file__).parents[1] / "book" / "profiles" / f"{name}.yaml").read_text()
        for section, values in (yaml.safe_load(text) or {}).items():
            for key, value in _leaves(values):
                assert _at(resolved[section], key) == value
                assert _at(defaults[section], key) != value, (
                    f"{name}: {section}.{'.'.join(key)} is the default"
                )


def _leaves(values, prefix=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _at(values, key):
    for part in key:
        values = values[part]
    return values


def test_overrides_are_typed_and_read_as_yaml():
    config = load_config(
        "quick", {"training.epochs": "3", "source.synthetic.rho": 0, "training.losses": "[l1, l2]"}
    )
    assert config.training.epochs == 3
    assert config.source.synthetic.rho == 0.0
    assert config.training.losses == ("l1", "l2")


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("quik", {}, "unknown profile 'quik' - did you mean quick?"),
        ("nowhere/profile.yaml", {}, "no profile file at nowhere/profile.yaml"),
        ("quick", {"trainig.epochs": 3}, "unknown setting 'trainig.epochs' - did you mean training.epochs?"),
        ("quick", {"training": 3}, "training is a section: .* such as training.epochs"),
        ("quick", {"epochs": 3}, "did you mean training.epochs or decoder_training.epochs or controls.ep"),
        ("quick", {"trainig": 3}, r"unknown setting 'trainig' - did you mean training\?"),
        ("quick", {"xyz": 3}, "unknown setting 'xyz' - the page Settings of the book lists all settings$"),
        ("quick", {"source.avspeech.csv": "a.csv"}, "has no effect: .* synthetic; add source.kind=avspeech"),
        ("pairs", {"source.avspeech.download.concurrency": 2}, "no effect: source.kind is pairs"),
        ("quick", {"source.pairs.n_splits": 2}, "source.pairs.n_splits has no effect"),
        ("quick", {"training.epochs": "@x"}, "training.epochs: '@x' is not a YAML value"),
        ("quick", {"training.epochs": "many"}, "training.epochs: .*valid integer.*given: 'many'"),
        ("quick", {"training.epochs": 0}, "training.epochs: .*greater than or equal to 1.*given: 0"),
        ("quick", {"source.synthetic.rho": 1.5}, "source.synthetic.rho: .*less than or equal to 1"),
        (
            "quick",
            {"training.losses": "[l3]"},
            "losses.0: .*unknown name 'l3' - known: l1, l2, l1_l2",
        ),
        ("quick", {"spectrogram.window_samples": 600}, "must not be longer than the Fourier transform"),
        ("quick", {"spectrogram.duration_s": 1.0}, "98 frames x 129 bins is too small for the encoder"),
        ("quick", {"encoder.frequency_bins": 26}, "leaves 25 bins: choose at most 25"),
        ("quick", {"preparation.frame_positions": []}, "preparation.frame_positions: .*at least 1 item"),
        ("quick", {"preparation.frame_positions": [0.5, 1.0]}, "frame_positions.1: .*less than 1"),
    ],
)
def test_load_config_bad_input_names_the_key(profile, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(profile, overrides)


def test_settings_of_sources_that_are_read_are_accepted(tmp_path):
    chosen = {"source.kind": "avspeech", "source.avspeech.csv": "a.csv"}
    assert load_config("quick", chosen).source.avspeech.csv == Path("a.csv")
    # chapter 07 generates people in every study, chapter 08 compares the pairs of `root`
    assert load_config("pairs", {"source.synthetic.rho": 0}).source.synthetic.rho == 0
    pairs = {"source.pairs.root": tmp_path, "source.pairs.n_splits": 2}
    assert load_config("quick", pairs).source.pairs.n_splits == 2
    # a profile may prepare several sources
    path = tmp_path / "mine.yaml"
    path.write_text("source: {avspeech: {csv: a.csv}}\n")
    assert load_config(path).source.kind == "synthetic"
    path.write_text(load_config("quick").to_yaml())
    assert load_config(path, {"training.epochs": 2}).training.epochs == 2


def _numbers() -> list[str]:
    """Return the dotted names of all settings that are numbers."""
    types = {int, float, int | None, float | None}
    keys = {key: key.rpartition(".") for key in setting_keys()}
    sections = {key: StudyConfig for key in keys}
    for key, (parents, _, _) in keys.items():
        for parent in filter(None, parents.split(".")):
            sections[key] = sections[key].model_fields[parent].annotation
    return [k for k, (_, _, name) in keys.items() if sections[k].model_fields[name].annotation in types]


@pytest.mark.parametrize("key", _numbers())
def test_number_that_can_only_be_a_mistake_is_refused(key):
    source = key.split(".")[1] if key.startswith("source.") else "synthetic"
    for value in (float("nan"), float("inf"), 10**13):
        with pytest.raises(ConfigError, match=key):
            load_config(None, {"source.kind": source, key: value})


def test_profile_file_with_unknown_key_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training:\n  epoch: 3\n")
    with pytest.raises(
        ConfigError, match=r"mine: unknown setting 'training.epoch' - did you mean training.epochs"
    ):
        load_config(path)
    path.write_text("trainig:\n  epochs: 3\n")
    with pytest.raises(ConfigError, match=r"unknown setting 'trainig' - did you mean training\?"):
        load_config(path)
    path.write_text("- 1\n- 2\n")
    with pytest.raises(InputError, match="expected a mapping of settings, found list"):
        load_config(path)
    path.write_text("a: [1\n")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(path)


def test_settings_are_frozen_and_digest_follows_values():
    config = StudyConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.profile = "other"
    assert config.training.digest() == StudyConfig().training.digest()
    assert config.training.digest() != config.training.with_(epochs=21).digest()


def test_to_yaml_round_trip(tmp_path):
    config = load_config("quick")
    path = tmp_path / "quick.yaml"
    path.write_text(config.to_yaml())
    values = yaml.safe_load(path.read_text())
    assert StudyConfig.model_validate(values) == config


@pytest.mark.parametrize(
    ("settings", "frames", "bins"),
    [({}, 598, 257), ({"duration_s": 3.0, "max_frequency_hz": 4000}, 298, 129)],
)
def test_spectrogram_size_follows_settings(settings, frames, bins):
    config = SpectrogramConfig(**settings)
    assert (config.n_frames, config.n_bins) == (frames, bins)


def test_setting_keys_returns_dotted_leaves():
    keys = setting_keys()
    assert "source.synthetic.rho" in keys
    assert "training.epochs" in keys
    assert "training" not in keys


def test_precision_no_is_read_as_text():
    assert load_config(None, {"training.precision": "no"}).training.precision == "no"
