"""Download of clips with yt-dlp."""
