from .attempts import DownloadResult as DownloadResult
from .attempts import download_clips as download_clips
