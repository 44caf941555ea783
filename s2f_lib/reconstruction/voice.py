"""Reconstruction of a face, attributes and the nearest gallery faces from a recording of a voice.

The result shows what people with such a voice look like to the model. It is not a portrait of the
speaker, and does not serve to identify anyone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.errors import ClipRefused, InputError, MissingFileError
from s2f_lib.paths import RunPaths
from s2f_lib.reconstruction.kit import Probe, ReconstructionKit, kit_of_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP_K = 5
_FACE_IN, _SMALL_IN, _GAP_IN = 2.6, 1.25, 0.12
_WARNING = "Made from a voice by a trained model: not a portrait of the speaker, not to identify anyone."


@dataclass(frozen=True, slots=True)
class AttributeGuess:
    """Guess of one attribute from the predicted features.

    Attributes
    ----------
    name
        "gender", "age_years" or "group".
    value
        The most probable class, or the number.
    probability
        Probability of the class by the probe; None for a number.
    interval
        Range that contains the true numbers of 80% of the test people with such a guess; None for a class.
    right_share
        Share of the guesses of this class that are right on test voices; None for a number.
    n
        Number of test people behind `interval` and `right_share`.

    Examples
    --------
    >>> AttributeGuess("age_years", 41.2, None, (29.0, 55.3), None, 120).format_guess()
    'age: 41 years, 80% of test people within 29 to 55'
    """

    name: str
    value: str | float
    probability: float | None
    interval: tuple[float, float] | None
    right_share: float | None
    n: int

    def format_guess(self) -> str:
        """Return one line of text for readers."""
        label = self.name.removesuffix("_years")
        if self.interval is not None:
            low, high = self.interval
            return f"{label}: {self.value:.0f} years, 80% of test people within {low:.0f} to {high:.0f}"
        checked = "" if self.right_share is None else f"; such guesses are right for {self.right_share:.0%}"
        return f"{label}: {self.value}, probability {self.probability:.0%}{checked} of test people"


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face of the gallery that is similar to the features predicted from the voice."""

    name: str  # clip id or file name
    similarity: float  # cosine of the features
    image: np.ndarray  # (224, 224, 3) uint8 RGB


@dataclass(frozen=True)
class Reconstruction:
    """What the models of a run predict from a voice.

    Attributes
    ----------
    face
        `(224, 224, 3)` uint8 RGB, the output of the decoder.
    features
        `(d,)` float32, predicted from the voice.
    attributes
        Guesses with their uncertainty; empty if no attribute of the run's people is known.
    found
        The nearest faces of the gallery, best first.
    gallery_size
        Number of faces in the gallery.
    encoder
        Folder of the voice encoder that predicted the features.
    """

    face: np.ndarray
    features: np.ndarray
    attributes: tuple[AttributeGuess, ...]
    found: tuple[FoundFace, ...]
    gallery_size: int
    encoder: Path

    def figure(self) -> Figure:
        """Return a figure: the face, the guesses as text, and below them the nearest faces."""
        from matplotlib.figure import Figure

        width = max(_FACE_IN + 4.2, len(self.found) * (_SMALL_IN + _GAP_IN)) + 2 * _GAP_IN
        height = _FACE_IN + _SMALL_IN + 1.3
        figure = Figure(figsize=(width, height), facecolor="white")

        def add_image(image: np.ndarray, left: float, top: float, side: float) -> None:
            axis = figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
            axis.imshow(image)
            axis.set_axis_off()

        def add_text(text: str, left: float, top: float, **style: Any) -> None:
            figure.text(left / width, 1 - top / height, text, **style)

        add_image(self.face, _GAP_IN, _GAP_IN, _FACE_IN)
        guesses = "\n\n".join(textwrap.fill(guess.format_guess(), 44) for guess in self.attributes)
        guesses = guesses or "No attribute of this run's people is known."
        add_text(guesses, _FACE_IN + 3 * _GAP_IN, 0.3, va="top", fontsize=9.5)
        top = _FACE_IN + 0.55
        add_text(f"Nearest of {self.gallery_size:,} faces", _GAP_IN, top - 0.1, va="bottom", fontsize=9.5)
        for number, face in enumerate(self.found):
            left = _GAP_IN + number * (_SMALL_IN + _GAP_IN)
            add_image(face.image, left, top, _SMALL_IN)
            middle, below = left + _SMALL_IN / 2, top + _SMALL_IN + 0.05
            add_text(f"cosine {face.similarity:.2f}", middle, below, ha="center", va="top", fontsize=8.5)
        add_text(_WARNING, _GAP_IN, height - 0.1, va="bottom", fontsize=8, color="#555555")
        return figure


def reconstruct(
    voice: str | Path,
    *,
    run: str | Path | None = None,
    gallery: str | Path | None = None,
    top_k: int = TOP_K,
    train: bool = False,
) -> Reconstruction:
    """Reconstruct a face from a recording of a voice, with the models of a run.

    Parameters
    ----------
    voice
        Any file with sound that FFmpeg reads, except playlists. Its first seconds are used, as in training.
    run
        Run folder. None: `runs/quick`, which `make book` makes.
    gallery
        Folder of images with one face each, to retrieve from. None: the run's own people.
    top_k
        Number of retrieved faces.
    train
        Whether to train the run's models if they are missing. By default nothing is trained.

    Raises
    ------
    MissingFileError
        The file, the run, a model of the run or the gallery does not exist.
    InputError
        The file has no sound, or it is too short, silent or not speech.

    Examples
    --------
    >>> result = reconstruct("voice.wav", run="runs/quick")  # doctest: +SKIP
    >>> result.figure().savefig("face.png")  # doctest: +SKIP
    """
    audio = read_voice(Path(voice))  # first, so that bad input is refused at once
    folder = Path(run) if run is not None else RunPaths.of_profile("quick").root
    kit = kit_of_run(folder, train=train)
    features, face = _predict_and_reconstruct(audio, kit)
    names, gallery_features, images = kit.names, kit.features, kit.images
    if gallery is not None:
        from s2f_lib.faces.face_set import read_gallery

        names, gallery_features, images = read_gallery(
            Path(gallery), preparation=kit.config.preparation, features=kit.config.features
        )
    found = _nearest_faces(features, names, gallery_features, images, top_k=top_k)
    guesses = tuple(_guess(probe, features) for probe in kit.probes)
    return Reconstruction(face, features, guesses, found, len(names), kit.encoder.parent)


def read_voice(path: Path, *, longest_s: float = 10.0) -> np.ndarray:
    """Read the start of a recording as `(n,)` int16 mono; raise an InputError if it is not speech."""
    from s2f_lib.media.decode import read_recording
    from s2f_lib.media.speech_check import check_speech

    if not path.is_file():
        raise MissingFileError(f"no file {path}: expected a recording of a voice")
    try:
        audio = read_recording(path, longest_s=longest_s, sample_rate_hz=SAMPLE_RATE_HZ)
    except ClipRefused as refused:
        raise InputError(f"{refused.detail}; expected a recording of one person speaking") from None
    check_speech(audio, sample_rate_hz=SAMPLE_RATE_HZ, name=path.name)
    return audio


def _nearest_faces(
    features: np.ndarray, names: Sequence[str], gallery: np.ndarray, images: Sequence[bytes], *, top_k: int
) -> tuple[FoundFace, ...]:
    """Return the faces whose `(n, d)` features are nearest to `(d,)` features, best first."""
    from s2f_lib.evaluation.retrieval import nearest, similarity_matrix
    from s2f_lib.media.jpeg import decode_jpeg

    similarity = similarity_matrix(features[None], gallery, "cosine")
    best = nearest(similarity, min(top_k, len(names)))[0]
    return tuple(
        FoundFace(names[index], float(similarity[0, index]), decode_jpeg(images[index])) for index in best
    )


def _predict_and_reconstruct(audio: np.ndarray, kit: ReconstructionKit) -> tuple[np.ndarray, np.ndarray]:
    from s2f_lib.media.decode import repeat_to
    from s2f_lib.models.face_decoders import make_decoder
    from s2f_lib.models.inference import predict_features, render_faces
    from s2f_lib.models.voice_encoder import make_encoder
    from s2f_lib.training.checkpoint import load_model

    config, dimension = kit.config, kit.features.shape[1]
    size = {"feature_dimension": dimension, "spectrogram": config.spectrogram}
    encoder = make_encoder(config.encoder, **size).eval()
    decoder = make_decoder(config.decoder, feature_dimension=dimension).eval()
    load_model(kit.encoder, encoder)
    load_model(kit.decoder, decoder)
    prepared = repeat_to(audio, round(config.preparation.audio_s * SAMPLE_RATE_HZ))
    windows = config.evaluation.windows
    features = predict_features(encoder, prepared[None], config.spectrogram, windows=windows)
    return features[0], render_faces(decoder, features)[0]


def _guess(probe: Probe, features: np.ndarray) -> AttributeGuess:
    scores = probe.scores(features[None])[0]
    if not probe.classes:
        value = float(scores[0])
        low, high = (value + float(quantile) for quantile in probe.error)
        return AttributeGuess(probe.name, value, None, (low, high), None, probe.n)
    best = int(scores.argmax())
    share = None if np.isnan(probe.error[best]) else float(probe.error[best])
    return AttributeGuess(probe.name, probe.classes[best], float(scores[best]), None, share, probe.n)
