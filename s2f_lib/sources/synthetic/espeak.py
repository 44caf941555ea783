"""espeak-ng through ctypes: text to a waveform, the same for the same arguments.

espeak-ng keeps state between utterances (the phase of its pitch flutter), so a
second call would differ from the first.  The library is therefore loaded anew
for every utterance, which takes about 10 ms.  It is not thread-safe: use one
process per voice at a time.
"""

from __future__ import annotations

import _ctypes
import ctypes
import logging
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from s2f_lib.errors import InputError, StudyError

SAMPLE_RATE_HZ = 22_050  # of espeak-ng's own output
_LONGEST_PATH = 140  # espeak-ng has room for 160 characters, file name included
# enum values of speak_lib.h; the synchronous mode starts no thread, which makes unloading safe
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH, _RANGE = 1, 3, 4

_log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def synthesize(
    text: str, *, voice: str, rate_wpm: float = 175, pitch: int = 50, pitch_range: int = 50
) -> np.ndarray:
    """Speak a text with espeak-ng.

    Parameters
    ----------
    text
        Plain text, UTF-8.
    voice
        Name of a voice of espeak-ng, for example "en-us".
    rate_wpm
        Words a minute, 80 to 450.
    pitch, pitch_range
        espeak-ng's own scales, 0 to 99.

    Returns
    -------
    (n,) numpy.ndarray of float32
        In [-1, 1], at 22,050 Hz.

    Raises
    ------
    InputError
        The voice is unknown, or the text holds nothing to say.
    StudyError
        espeak-ng does not start.
    """
    chunks: list[np.ndarray] = []

    def keep(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(keep)  # must live as long as the library may call it
    with _one_at_a_time, _library() as library:
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(
                f"espeak-ng has no voice {voice!r}: give a language code it knows, such as en-us"
            )
        for parameter, value in ((_RATE, rate_wpm), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, round(value), 0)
        data = text.encode() + b"\0"
        library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    if not chunks or not any(chunk.any() for chunk in chunks):
        raise InputError(f"espeak-ng had nothing to say for the text {text!r}: give at least one word")
    return np.concatenate(chunks).astype(np.float32) / 32768


@contextmanager
def _library():
    """Load espeak-ng with fresh state, and unload it."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with _short_path(Path(espeakng_loader.get_data_path())) as data:
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DONT_EXIT)
            if rate != SAMPLE_RATE_HZ:
                raise StudyError(
                    f"espeak-ng did not start with its data in {data} (it answered {rate}, expected "
                    f"{SAMPLE_RATE_HZ}): reinstall espeakng-loader"
                )
            yield library
            library.espeak_Terminate()
    finally:
        if hasattr(_ctypes, "dlclose"):
            _ctypes.dlclose(library._handle)
        else:
            _log.debug("this platform cannot unload espeak-ng: utterances depend on those before them")


@contextmanager
def _short_path(path: Path):
    """Give a path short enough for espeak-ng: the path itself, or a link to it."""
    if len(str(path)) <= _LONGEST_PATH:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="s2f-") as folder:
        link = Path(folder) / "espeak-ng-data"
        link.symlink_to(path, target_is_directory=True)
        yield link
