"""A real HTTP server on 127.0.0.1 that serves clips with faults.

Each path `/<id>.mp4` has a `Behaviour`. The server counts requests and bytes. It serves ranges, and it drops
its connections when it is closed, so that no test waits for a stalled one.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body>No video here.</body></html>"


@dataclass(frozen=True)
class Behaviour:
    """How one id is served.

    Attributes
    ----------
    fault
        None: no fault; otherwise one of the `_serve_...` methods of the handler, with its argument.
    times
        Number of answers with the fault, from the first; None: all.
    """

    fault: str | None = None
    times: int | None = None


class MisbehavingServer(ThreadingHTTPServer):
    """Serves `files[id]` at `/<id>.mp4`, by `behaviours[id]`.

    Attributes
    ----------
    requests
        Number of GET requests by id, with the hops of a redirect loop.
    complete
        Number of times that the last byte of the right file was sent, by id.
    bytes_sent
        Number of bytes in the bodies, by id.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, files: dict[str, bytes], behaviours: dict[str, Behaviour] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.behaviours = files, behaviours or {}
        self.requests: Counter[str] = Counter()
        self.complete: Counter[str] = Counter()
        self.bytes_sent: Counter[str] = Counter()
        self.seen_headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.player_heights: tuple[int, ...] = ()  # heights on the page at `/<id>`
        self.stated_s = 0.0  # length in manifests and pages; 0: not stated
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> MisbehavingServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    @property
    def template(self) -> str:
        """The URL template for `DownloadConfig`."""
        return f"http://127.0.0.1:{self.server_port}/{{id}}.mp4"

    def forget(self) -> None:
        """Set the counts to zero."""
        with self.lock:
            for counter in (self.requests, self.complete, self.bytes_sent):
                counter.clear()
            self.seen_headers.clear()

    def handle_error(self, request: object, client_address: object) -> None:
        """Print no traceback: clients close their connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # one connection per answer: a cut body ends the connection
    server: MisbehavingServer

    def do_GET(self) -> None:
        self.key = self.path.strip("/").partition(".")[0]
        with self.server.lock:
            self.server.requests[self.key] += 1
            self.server.paths.append(self.path)
            self.server.seen_headers.append(dict(self.headers))
            count = self.server.requests[self.key]
        behaviour = self.server.behaviours.get(self.key, Behaviour())
        if self.path.endswith(".mpd"):
            self._serve_manifest()
        elif ".mp4" not in self.path:
            self._serve_player()
        elif behaviour.fault is not None and (behaviour.times is None or count <= behaviour.times):
            name, _, argument = behaviour.fault.partition(":")
            getattr(self, f"_serve_{name}")(*filter(None, [argument]))
        elif self.key in self.server.files:
            self._serve_file(self.server.files[self.key])
        else:
            self._serve_status("404")

    def _serve_player(self) -> None:
        """A page with a player that names the file."""
        heights = self.server.player_heights
        urls = [(f"/{self.key}.mp4?height={h}", f' label="{h}p"') for h in heights] or [
            (f"/{self.key}.mp4", "")
        ]
        sources = "".join(f'<source src="{url}" type="video/mp4"{label}>' for url, label in urls)
        player = f"<body><video>{sources}</video></body>"
        if self.server.stated_s:  # in the form of schema.org
            url = f"http://127.0.0.1:{self.server.server_port}/{self.key}.mp4"
            stated = {"@context": "https://schema.org", "@type": "VideoObject", "name": "t"}
            stated |= {"contentUrl": url, "duration": f"PT{self.server.stated_s}S"}
            player = f'<script type="application/ld+json">{json.dumps(stated)}</script>'
        page = f"<!DOCTYPE html><html><title>t</title>{player}</html>".encode()
        self._answer(200, {"Content-Type": "text/html", "Content-Length": str(len(page))})
        self._send(page)

    def _serve_manifest(self) -> None:
        """A manifest of separate files: `/<id>-<height>.mp4` for video and `/<id>-sound.mp4` for audio."""
        videos = "".join(
            f'<Representation id="v{h}" width="{h}" height="{h}" codecs="avc1.42c00d" bandwidth="{h}000">'
            f"<BaseURL>/{self.key}-{h}.mp4</BaseURL></Representation>"
            for h in self.server.player_heights
        )
        sound = (
            '<Representation id="a" codecs="mp4a.40.2" bandwidth="64000" audioSamplingRate="16000">'
            f"<BaseURL>/{self.key}-sound.mp4</BaseURL></Representation>"
        )
        manifest = (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
            f' mediaPresentationDuration="PT{self.server.stated_s}S"><Period>'
            f'<AdaptationSet mimeType="video/mp4">{videos}</AdaptationSet>'
            f'<AdaptationSet mimeType="audio/mp4">{sound}</AdaptationSet></Period></MPD>'
        ).encode()
        self._answer(200, {"Content-Type": "application/dash+xml", "Content-Length": str(len(manifest))})
        self._send(manifest)

    def _serve_file(self, data: bytes) -> None:
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(found[1]), min(int(found[2] or len(data)), len(data) - 1) + 1
            if start >= len(data):
                self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            self._answer(206, {
                "Content-Type": "video/mp4",
                "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}",
                "Content-Length": str(stop - start),
            })  # fmt: skip
        else:
            stop = len(data)
            self._answer(200, {"Content-Type": "video/mp4", "Content-Length": str(len(data))})
        self._send(data[start:stop])
        if stop == len(data):
            with self.server.lock:
                self.server.complete[self.key] += 1

    def _serve_status(self, status: str, *headers: str) -> None:
        self._answer(int(status), {"Content-Length": "0"} | dict(h.split("=") for h in headers))

    def _serve_throttle(self, retry_after: str) -> None:
        self._serve_status("429", f"Retry-After={retry_after}")

    def _serve_busy(self, retry_after: str) -> None:
        self._serve_status("503", f"Retry-After={retry_after}")

    def _serve_stall(self) -> None:
        """Half of the body, then nothing."""
        data = self.server.files[self.key]
        self._answer(200, {"Content-Type": "video/mp4", "Content-Length": str(len(data))})
        self._send(data[: len(data) // 2])
        self.server.closing.wait(20)

    def _serve_silence(self) -> None:
        """No answer, not even a status line."""
        self.server.closing.wait(20)

    def _serve_cut(self) -> None:
        """Half of the body, then the end of the connection; ranges are not served."""
        data = self.server.files[self.key]
        self._answer(200, {"Content-Type": "video/mp4", "Content-Length": str(len(data))})
        self._send(data[: len(data) // 2])

    def _serve_short(self) -> None:
        """Half of the body, with the Content-Length of that half."""
        data = self.server.files[self.key]
        self._answer(200, {"Content-Type": "video/mp4", "Content-Length": str(len(data) // 2)})
        self._send(data[: len(data) // 2])

    def _serve_html(self) -> None:
        """A page instead of a video, with the status and the type of a video."""
        self._answer(200, {"Content-Type": "video/mp4", "Content-Length": str(len(HTML))})
        self._send(HTML)

    def _serve_page(self) -> None:
        """A page with the type of a page."""
        self._answer(200, {"Content-Type": "text/html", "Content-Length": str(len(HTML))})
        self._send(HTML)

    def _serve_loop(self) -> None:
        self._answer(302, {"Location": self.path, "Content-Length": "0"})

    def _serve_trickle(self) -> None:
        """100 bytes every 0.05 s."""
        data = self.server.files[self.key]
        self._answer(200, {"Content-Type": "video/mp4", "Content-Length": str(len(data))})
        for start in range(0, len(data), 100):  # 2 kB/s: never trips a socket timeout
            self._send(data[start : start + 100])
            if self.server.closing.wait(0.05):
                return

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        for start in range(0, len(data), 65536):  # bytes that a client did not read are not counted
            part = data[start : start + 65536]
            self.wfile.write(part)
            with self.server.lock:
                self.server.bytes_sent[self.key] += len(part)

    def log_message(self, *_: object) -> None:
        """Keep the terminal clean."""
