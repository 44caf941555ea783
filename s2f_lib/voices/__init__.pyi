from .embedding import AcousticEmbedding as AcousticEmbedding
from .embedding import VoiceEmbedding as VoiceEmbedding
from .embedding import embed_voices as embed_voices
from .speaker import SpeakerEmbedding as SpeakerEmbedding
from .whisper import WhisperEmbedding as WhisperEmbedding
