"""The speech of the generated people: espeak-ng, then Praat for vocal tract and pitch.

espeak-ng gives the words, the accent and the rate. Praat's "Change gender" moves all formants by one factor
(the length of the vocal tract) and sets the median pitch. Age adds tremor, a slow variation of the pitch,
and breath noise.

espeak-ng keeps state between utterances (the phase of its pitch flutter), so a second call would differ from
the first. Therefore the library is loaded again for every utterance, which takes about 10 ms.
"""

from __future__ import annotations

import _ctypes
import ctypes
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd
from pathlib import Path

import numpy as np

from s2f_lib.errors import InputError, StudyError
from s2f_lib.sources.synthetic.people import VoiceLatents

_RATE_HZ = 22_050  # sample rate of espeak-ng's output
_LONGEST_PATH = 140  # espeak-ng's buffer holds 160 characters, file name included
# Constants of speak_lib.h. The synchronous mode starts no thread, which makes unloading safe.
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_ESPEAK_F0_HZ = 100.0  # espeak-ng's median pitch at its setting 50
_PEAK = 0.7  # peak of the finished waveform
_BOUNDS = {"f0_hz": (50.0, 500.0), "formant_ratio": (0.6, 1.6)}
_GAP_S = 0.12  # silence between two sentences

_one_at_a_time = threading.Lock()
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(
    voice: VoiceLatents, text: str, *, sample_rate_hz: int = _RATE_HZ, noise_seed: int = 0
) -> np.ndarray:
    """Synthesise a text with a voice.

    Parameters
    ----------
    voice
        Voice, of which the fields from `accent` on are used.
    text
        English text; an accent of another language reads it with the sounds of that language.
    sample_rate_hz
        Sample rate of the result. espeak-ng's own is 22,050 Hz, so the result has nothing above 11 kHz.
    noise_seed
        Seed of breath and tremor. Equal arguments give equal samples.

    Returns
    -------
    numpy.ndarray
        `(n,)` float32, mono, with a peak of 0.7.

    Raises
    ------
    InputError
        `f0_hz` is outside 50 to 500, `formant_ratio` is outside 0.6 to 1.6, the accent is unknown, or the
        text has no words.

    Examples
    --------
    >>> from s2f_lib.sources.synthetic.people import draw_face, draw_voice
    >>> rng = np.random.default_rng(0)
    >>> audio = speak(draw_voice(rng, draw_face(rng), rho=0.9), "Good morning.")
    >>> round(float(abs(audio).max()), 3)
    0.7
    """
    for name, (low, high) in _BOUNDS.items():
        value = getattr(voice, name)
        if not low <= value <= high:
            raise InputError(f"voice.{name} is {value}: expected {low:g} to {high:g}")
    rng = np.random.default_rng(noise_seed)
    # espeak-ng speaks close to the requested pitch, so that Praat changes less
    samples = synthesize(
        text,
        voice=voice.accent,
        rate_wpm=voice.rate_wpm,
        pitch=int(np.clip(50 + 57 * np.log2(voice.f0_hz / _ESPEAK_F0_HZ), 0, 99)),
        pitch_range=int(np.clip(50 * voice.pitch_range, 0, 99)),
    )
    samples = _set_tract_and_pitch(_trim(samples), voice.f0_hz, voice.formant_ratio, seed=noise_seed)
    samples = _add_tremor(samples, voice.tremor, rng)
    samples = _add_breath(samples, voice.breath_db, rng)
    if sample_rate_hz != _RATE_HZ:
        from scipy.signal import resample_poly

        common = gcd(sample_rate_hz, _RATE_HZ)
        samples = resample_poly(samples, sample_rate_hz // common, _RATE_HZ // common)
    return (samples * (_PEAK / max(float(np.abs(samples).max()), 1e-6))).astype(np.float32)


def speak_for(
    voice: VoiceLatents,
    sentences: list[str],
    *,
    duration_s: float,
    sample_rate_hz: int = _RATE_HZ,
    noise_seed: int = 0,
) -> np.ndarray:
    """Synthesise sentences up to a duration, `(round(duration_s * sample_rate_hz),)` float32."""
    n_samples = round(duration_s * sample_rate_hz)
    gap = np.zeros(round(_GAP_S * sample_rate_hz), np.float32)
    parts: list[np.ndarray] = []
    n_spoken = 0
    for index, sentence in enumerate(sentences):
        # one seed per sentence, so that breath and tremor differ
        part = speak(voice, sentence, sample_rate_hz=sample_rate_hz, noise_seed=noise_seed * 1000 + index)
        parts += [part, gap]
        n_spoken += len(part) + len(gap)
        if n_spoken >= n_samples:
            break
    samples = np.concatenate(parts)[:n_samples]
    samples = np.pad(samples, (0, n_samples - len(samples)))
    fade = min(round(0.02 * sample_rate_hz), len(samples))
    samples[len(samples) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return samples


def synthesize(
    text: str, *, voice: str, rate_wpm: float = 175, pitch: int = 50, pitch_range: int = 50
) -> np.ndarray:
    """Return a text spoken by espeak-ng, `(n,)` float32 in [-1, 1] at 22,050 Hz.

    The rate is 80 to 450 words per minute; pitch and intonation range are on espeak-ng's own scales, 0 to 99.
    """
    chunks: list[np.ndarray] = []

    def keep(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(keep)  # must live as long as the library may call it
    with _one_at_a_time, _espeak() as library:
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(
                f"espeak-ng has no voice {voice!r}: give a language code that it knows, such as en-us"
            )
        for parameter, value in ((_RATE, rate_wpm), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, round(value), 0)
        data = text.encode() + b"\0"
        library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    if not chunks or not any(chunk.any() for chunk in chunks):
        raise InputError(f"espeak-ng found nothing to say in the text {text!r}: give at least one word")
    return np.concatenate(chunks).astype(np.float32) / 32768


@contextmanager
def _espeak() -> Iterator[ctypes.CDLL]:
    """Load espeak-ng with fresh state, and unload it."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with _short_path(Path(espeakng_loader.get_data_path())) as data:
            rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DONT_EXIT)
            if rate_hz != _RATE_HZ:
                raise StudyError(
                    f"espeak-ng did not start with its data in {data} (it answered {rate_hz}, expected "
                    f"{_RATE_HZ}): reinstall espeakng-loader"
                )
            yield library
            library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


@contextmanager
def _short_path(path: Path) -> Iterator[Path]:
    """Yield a path that is short enough for espeak-ng: the path itself, or a link to it."""
    if len(str(path)) <= _LONGEST_PATH:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="s2f-") as folder:
        link = Path(folder) / "espeak-ng-data"
        link.symlink_to(path, target_is_directory=True)
        yield link


def _trim(samples: np.ndarray) -> np.ndarray:
    """Cut the silence before and after the words."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if not len(loud):
        return samples
    margin = _RATE_HZ // 50
    words = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    # Praat's pitch analysis needs three periods of its lowest pitch
    missing = max(0, _RATE_HZ // 10 - len(words))
    return np.pad(words, (missing // 2, missing - missing // 2))


def _set_tract_and_pitch(samples: np.ndarray, f0_hz: float, formant_ratio: float, *, seed: int) -> np.ndarray:
    """Move the formants and set the median pitch with Praat's "Change gender"."""
    import parselmouth

    sound = parselmouth.Sound(samples.astype(np.float64), _RATE_HZ)
    # Praat fills unvoiced stretches with randomly chosen periods
    parselmouth.praat.run(f"random_initializeWithSeedUnsafelyButPredictably ({seed})")
    try:
        changed = parselmouth.praat.call(sound, "Change gender", 50, 300, formant_ratio, f0_hz, 1.0, 1.0)
    finally:
        parselmouth.praat.run("random_initializeSafelyAndUnpredictably ()")
    return changed.values[0]


def _add_tremor(samples: np.ndarray, depth: float, rng: np.random.Generator) -> np.ndarray:
    """Vary the pitch by `depth`, a share of f0, at about 5 Hz."""
    time_s = np.arange(len(samples)) / _RATE_HZ
    rate_hz = rng.uniform(4.5, 5.5)
    # the derivative of the reading position is 1 + depth * cos(...)
    phase = 2 * np.pi * rate_hz * time_s + rng.uniform(0, 2 * np.pi)
    shift_s = depth * (np.sin(phase) - np.sin(phase[0])) / (2 * np.pi * rate_hz)
    return np.interp(time_s + shift_s, time_s, samples)


def _add_breath(samples: np.ndarray, level_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise that follows the loudness of the speech, `level_db` below it and brighter than the voice."""
    from scipy.signal import lfilter

    # loudness with a time constant of 20 ms; the first difference of the noise lifts its high frequencies
    pole = np.exp(-1 / (0.02 * _RATE_HZ))
    loudness = np.sqrt(np.maximum(lfilter([1 - pole], [1, -pole], samples**2), 0))
    noise = rng.standard_normal(len(samples) + 1)
    bright = (noise[1:] - 0.6 * noise[:-1]) / np.sqrt(1 + 0.36)
    return samples + 10 ** (level_db / 20) * loudness * bright


#: Everyday English sentences of varied sounds and lengths.
SENTENCES: tuple[str, ...] = (
    "The old bridge was closed for repairs during the whole summer.",
    "My neighbour grows tomatoes, peppers and beans behind the garage.",
    "Could you tell me which platform the evening train leaves from?",
    "We walked along the river until the lights of the village appeared.",
    "A good question is often worth more than a quick answer.",
    "She wrote three long letters and posted them before noon.",
    "The museum opens at nine, but the queue starts much earlier.",
    "He plays the violin every morning while the coffee is brewing.",
    "Nobody expected the weather to change so quickly in the mountains.",
    "Please remember to switch off the heating when you go out.",
    "The children built a castle of sand and shells on the beach.",
    "I have been thinking about moving to a smaller house.",
    "Fresh bread and strong cheese make a perfect lunch for me.",
    "The lecture was about the history of measuring time.",
    "Our bus was late again, so we shared a taxi into town.",
    "They painted the kitchen yellow and the hallway pale blue.",
    "Each year the birds return to the same tree near the church.",
    "What would you do if you had a whole year to travel?",
    "The engineer explained how the valve controls the pressure.",
    "Most of the work was finished by the end of the week.",
    "Take the second street on the left and look for a green door.",
    "The soup needs a little more salt and a lot more pepper.",
    "In winter the lake freezes and people skate across it.",
    "He could not find his glasses because he was wearing them.",
    "The choir rehearses on Thursdays in the hall behind the school.",
    "Reading aloud is a fine way to learn a new language.",
    "The dog barked twice and then fell asleep by the fire.",
    "We should measure the table before we buy another lamp.",
    "A strong wind blew the papers all over the yard.",
    "Her grandfather repaired watches and clocks for fifty years.",
    "The recipe asks for four eggs, some flour and a cup of milk.",
    "It took them an hour to cross the valley on foot.",
    "The voice on the radio promised sunshine for the weekend.",
    "You can borrow my bicycle as long as you bring it back.",
    "Several small shops near the harbour sell fish and ice cream.",
    "The judge asked everyone to stand and to remain quiet.",
    "I usually drink tea in the afternoon and water with dinner.",
    "The film was too long, although the music was beautiful.",
    "Few people know that this tower was once a lighthouse.",
    "The baker gave us two extra rolls because it was late.",
    "Every choice has a price, and waiting is a choice too.",
    "The students compared their notes and found the same mistake.",
    "A thick fog covered the airport and all flights were delayed.",
    "He thanked the nurse and asked for another blanket.",
    "The garden gate squeaks whenever somebody opens it.",
    "They sang around the campfire until the stars came out.",
    "This jacket is warm enough for autumn but not for January.",
    "The price of the tickets includes a map and a short tour.",
)
