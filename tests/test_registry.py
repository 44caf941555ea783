"""Names and fingerprints of custom extractors, losses, encoders, decoders and sources."""

from __future__ import annotations

import pytest

from s2f_lib import registry
from s2f_lib.config import FeatureConfig, VoiceEncoderConfig, load_config
from s2f_lib.errors import ConfigError, InputError
from s2f_lib.registry import fingerprint_of, register
from s2f_lib.storage import digest

WEIGHT = 2.0
UNKNOWN = object()


def scaled(face, speech):
    return WEIGHT * helper(face, speech)


def helper(face, speech):
    return (face - speech).mean()


class Encoder:
    """A custom encoder that uses a variable of its module."""

    size = 3

    def forward(self, x):
        return WEIGHT * x


def of_unknown(face, speech):
    return UNKNOWN


def with_margin(margin):
    def loss(face, speech):
        return (face - speech).mean() - margin

    return loss


@pytest.fixture
def custom_losses(monkeypatch):
    monkeypatch.setitem(registry._registered, "losses", {})


def test_fingerprint_follows_the_values_that_a_function_uses(monkeypatch):
    before = fingerprint_of(scaled), fingerprint_of(Encoder)
    assert (fingerprint_of(scaled), fingerprint_of(Encoder)) == before
    monkeypatch.setitem(globals(), "WEIGHT", 3.0)
    assert fingerprint_of(scaled) != before[0]
    assert fingerprint_of(Encoder) != before[1]
    monkeypatch.setitem(globals(), "WEIGHT", 2.0)
    monkeypatch.setattr(Encoder, "size", 4)
    assert (fingerprint_of(scaled), fingerprint_of(Encoder) == before[1]) == (before[0], False)
    monkeypatch.setitem(globals(), "helper", with_margin)  # a function that it calls
    assert fingerprint_of(scaled) != before[0]
    assert fingerprint_of(with_margin(0.1)) != fingerprint_of(with_margin(0.2))


@pytest.mark.parametrize("value", [of_unknown, UNKNOWN, eval("lambda face, speech: face")])
def test_fingerprint_that_cannot_be_computed_is_requested(value):
    with pytest.raises(InputError, match=r"has no fingerprint, .* give it an attribute `fingerprint`"):
        fingerprint_of(value)


@pytest.mark.usefixtures("custom_losses")
def test_registered_name_is_used_in_settings():
    with pytest.raises(ConfigError, match=r"training.main_loss: .*unknown name 'scaled'"):
        load_config(None, {"training.main_loss": "scaled"})
    register("losses", "scaled", scaled)
    assert load_config(None, {"training.main_loss": "scaled"}).training.main_loss == "scaled"
    assert registry.identity("losses", "scaled") == ("scaled", fingerprint_of(scaled))
    assert registry.identity("losses", "l1") == ("l1", None)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("loss", "a", scaled, "unknown kind 'loss': expected one of extractors, losses"),
        ("losses", "l1", scaled, "'l1' is a built-in loss: choose another name"),
        ("losses", "a/b", scaled, "name 'a/b': expected letters, digits"),
        ("losses", "a", 3, "loss 'a' is a int: expected a callable"),
    ],
)
@pytest.mark.usefixtures("custom_losses")
def test_register_bad_input_is_refused(kind, name, value, message):
    with pytest.raises(InputError, match=message):
        register(kind, name, value)


def test_options_are_for_custom_parts_only():
    with pytest.raises(ConfigError, match=r"encoder: .*report takes no options"):
        load_config(None, {"encoder.options.hidden": 3})
    with pytest.raises(ConfigError, match="encoder is a section: name one of its settings"):
        load_config(None, {"encoder": 3})


def test_make_names_the_argument_that_is_not_taken():
    with pytest.raises(
        ConfigError, match=r"encoder with_margin does not take .*'width' \(given: margin, width\)"
    ):
        registry.make("encoders", with_margin, {"width": 3}, margin=0.1)


def test_digests_of_built_in_parts_ignore_the_new_fields():
    values = {"width": 1.0, "hidden": 4096, "frequency_bins": 9, "face_axes": False}
    assert VoiceEncoderConfig().digest() == digest(values)
    values = {"extractor": "dlib_resnet", "weights": None, "batch_size": 32}
    assert FeatureConfig().digest() == digest(values)
