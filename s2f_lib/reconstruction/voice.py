"""From any recording of a voice to a drawn face, guessed attributes and the nearest faces of a gallery.

What comes out is what people with such a voice look like to the model: no
portrait of the speaker, and no ground to identify anyone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2f_lib.errors import ClipRefused, InputError, MissingFileError
from s2f_lib.paths import RunPaths
from s2f_lib.reconstruction.kit import Probe, ReconstructionKit, kit_of_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP_K = 5
SAMPLE_RATE_HZ = 16_000  # of the check whether it is speech at all


@dataclass(frozen=True, slots=True)
class AttributeGuess:
    """One attribute, as the predicted features have it.

    Attributes
    ----------
    name
        "gender", "age_years", "group".
    value
        The likeliest class, or the number.
    probability
        Of the class, by the probe; None for a number.
    interval
        In which 80% of the test people's true numbers lay around such a guess; None for a class.
    right_share
        How often a guess of this class was right on test people's voices; None for a number.
    n
        Test people behind interval and share.
    """

    name: str
    value: str | float
    probability: float | None
    interval: tuple[float, float] | None
    right_share: float | None
    n: int

    def format_guess(self) -> str:
        """Return one line for a person."""
        label = self.name.removesuffix("_years")
        if self.interval is not None:
            low, high = self.interval
            return f"{label}: {self.value:.0f} years, 80% of test people within {low:.0f} to {high:.0f}"
        checked = "" if self.right_share is None else f"; such guesses are right for {self.right_share:.0%}"
        return f"{label}: {self.value}, probability {self.probability:.0%}{checked} of test people"


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face of the gallery that is near the voice's features.

    Attributes
    ----------
    name
        A clip's id, or a file's name.
    similarity
        Cosine of the features.
    image
        (224, 224, 3) uint8 RGB.
    """

    name: str
    similarity: float
    image: np.ndarray


@dataclass(frozen=True)
class Reconstruction:
    """What a voice tells of a face.

    Attributes
    ----------
    face
        (224, 224, 3) uint8 RGB, drawn.
    features
        (d,) float32, predicted from the voice.
    attributes
        Guesses with their uncertainty; none where nothing is known of the run's people.
    found
        The nearest faces of the gallery, best first.
    gallery_size
        Faces that were looked through.
    """

    face: np.ndarray
    features: np.ndarray
    attributes: tuple[AttributeGuess, ...]
    found: tuple[FoundFace, ...]
    gallery_size: int

    def figure(self) -> Figure:
        """Return the drawn face beside the faces found, with the guesses as text."""
        from s2f_lib.reconstruction.figure import voice_to_face

        labels = [f"cosine {found.similarity:.2f}" for found in self.found]
        images = [found.image for found in self.found]
        lines = [guess.format_guess() for guess in self.attributes]
        return voice_to_face(self.face, images, labels=labels, lines=lines, gallery_size=self.gallery_size)


def reconstruct(
    voice: str | Path,
    *,
    run: str | Path | None = None,
    gallery: str | Path | None = None,
    top_k: int = TOP_K,
) -> Reconstruction:
    """Draw a face from a recording of a voice, with the models of a run.

    Parameters
    ----------
    voice
        Any file with sound that FFmpeg reads, playlists excepted; its first seconds are used, as in training.
    run
        A run's folder; by default `runs/quick`, which `make book` leaves behind.
    gallery
        A folder of pictures, one face each, to retrieve from; by default the run's own people.
    top_k
        Faces to retrieve.

    Raises
    ------
    MissingFileError
        There is no such file, run or gallery.
    InputError
        The file has no sound, or it is too short, silent or not speech.
    """
    audio = read_voice(Path(voice))  # first: bad input is told at once
    folder = Path(run) if run is not None else RunPaths.of_profile("quick").root
    kit = kit_of_run(folder)
    rate_hz = kit.config.preparation.sample_rate_hz
    if rate_hz != SAMPLE_RATE_HZ:
        audio = read_voice(Path(voice), sample_rate_hz=rate_hz)
    return reconstruct_audio(audio, kit, gallery=gallery, top_k=top_k)


def reconstruct_audio(
    audio: np.ndarray, kit: ReconstructionKit, *, gallery: str | Path | None = None, top_k: int = TOP_K
) -> Reconstruction:
    """Draw a face from samples.

    Parameters
    ----------
    audio
        (n,) int16 mono at `kit.config.preparation.sample_rate_hz`; what is short is repeated.
    kit
        Of a run; see `reconstruction_kit.kit_of_run`.
    gallery, top_k
        See `reconstruct`.
    """
    features, face = _predict_and_reconstruct(audio, kit)
    names, gallery_features, images = kit.names, kit.features, kit.images
    if gallery is not None:
        from s2f_lib.faces.face_set import read_gallery

        names, gallery_features, images = read_gallery(
            Path(gallery), preparation=kit.config.preparation, features=kit.config.features
        )
    found = nearest_faces(features, names, gallery_features, images, top_k=top_k)
    guesses = tuple(_guess(probe, features) for probe in kit.probes)
    return Reconstruction(face, features, guesses, found, len(names))


def nearest_faces(
    features: np.ndarray,
    names: tuple[str, ...],
    gallery: np.ndarray,
    images: tuple[bytes, ...],
    *,
    top_k: int = TOP_K,
) -> tuple[FoundFace, ...]:
    """Retrieve instead of render: return the gallery's faces whose features are nearest, best first.

    Parameters
    ----------
    features
        (d,) predicted from a voice.
    names, gallery, images
        n names, (n, d) features and n JPEG files.
    """
    from s2f_lib.evaluation.retrieval import nearest, similarity_matrix
    from s2f_lib.media.jpeg import decode_jpeg

    similarity = similarity_matrix(features[None], gallery, "cosine")
    best = nearest(similarity, min(top_k, len(names)))[0]
    return tuple(
        FoundFace(names[index], float(similarity[0, index]), decode_jpeg(images[index])) for index in best
    )


def read_voice(path: Path, *, sample_rate_hz: int = SAMPLE_RATE_HZ, longest_s: float = 10.0) -> np.ndarray:
    """Read the start of a recording, and refuse what is not speech.

    Returns
    -------
    numpy.ndarray
        (n,) int16 mono.
    """
    from s2f_lib.media.decode import read_recording
    from s2f_lib.media.speech_check import check_speech

    if not path.is_file():
        raise MissingFileError(f"no file {path}: expected a recording of a voice")
    try:
        audio = read_recording(path, longest_s=longest_s, sample_rate_hz=sample_rate_hz)
    except ClipRefused as refused:
        raise InputError(f"{refused.detail}; expected a recording of one person speaking") from None
    check_speech(audio, sample_rate_hz=sample_rate_hz, name=path.name)
    return audio


def _predict_and_reconstruct(audio: np.ndarray, kit: ReconstructionKit) -> tuple[np.ndarray, np.ndarray]:
    from s2f_lib.media.decode import repeat_to
    from s2f_lib.models.face_decoders import make_decoder
    from s2f_lib.models.inference import predict_features, render_faces
    from s2f_lib.models.voice_encoder import VoiceEncoder
    from s2f_lib.training.checkpoint import load_model

    config, dimension = kit.config, kit.features.shape[1]
    encoder = VoiceEncoder(config.encoder, feature_dimension=dimension, spectrogram=config.spectrogram).eval()
    decoder = make_decoder(config.decoder, feature_dimension=dimension).eval()
    load_model(kit.encoder, encoder)
    load_model(kit.decoder, decoder)
    prepared = repeat_to(audio, round(config.preparation.audio_s * config.preparation.sample_rate_hz))
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
    share = float(probe.error[best])
    return AttributeGuess(
        probe.name, probe.classes[best], float(scores[best]), None, share if share == share else None, probe.n
    )
