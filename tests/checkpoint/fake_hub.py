"""A Hugging Face hub of one model, on a port of this machine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SHA = "a" * 40


class FakeHub:
    """Serves the files of `folder` as the model org/tiny at the revisions main and v1.

    `breaks`: files whose first download ends in the middle. `gated`: everything but the list of files is refused.
    """

    def __init__(self, folder: Path, breaks: tuple[str, ...] = (), gated: bool = False) -> None:
        self.folder = folder
        self.gated = gated
        self.to_break = set(breaks)
        self.downloaded: list[tuple[str, str | None]] = []  # name, range
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, to: BaseHTTPRequestHandler, body: bool) -> None:
        path = to.path.partition("?")[0]
        if path.startswith("/api/models/org/tiny"):
            revision = path.removeprefix("/api/models/org/tiny").removeprefix("/revision/") or "main"
            if revision not in ("main", "v1", SHA):
                return self._refuse(to, 404, "RevisionNotFound")
            names = [{"rfilename": file.name} for file in sorted(self.folder.iterdir())]
            return self._send(to, json.dumps({"id": "org/tiny", "sha": SHA, "siblings": names}).encode(), {}, body)
        asked = re.fullmatch(rf"/org/tiny/resolve/(?:main|v1|{SHA})/([^/]+)", path)
        if not asked:
            return self._refuse(to, 404, "RepoNotFound")
        if self.gated:
            return self._refuse(to, 403, "GatedRepo")
        name = asked[1]
        content = (self.folder / name).read_bytes()
        headers = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if body:
            self.downloaded.append((name, to.headers.get("Range")))
        if body and name in self.to_break:
            self.to_break.remove(name)
            self._send(to, content[: len(content) // 2], {**headers, "Content-Length": str(len(content))}, body)
            return to.connection.close()
        if (wanted := to.headers.get("Range")) and body:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            total = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(to, content[start:], {**headers, "Content-Range": total}, body, status=206)
        return self._send(to, content, headers, body)

    @staticmethod
    def _refuse(to: BaseHTTPRequestHandler, status: int, code: str) -> None:
        FakeHub._send(to, b"{}", {"X-Error-Code": code, "X-Error-Message": f"{code} it is"}, True, status)

    @staticmethod
    def _send(
        to: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str], body: bool, status: int = 200
    ) -> None:
        to.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            to.send_header(key, value)
        to.end_headers()
        if body:
            to.wfile.write(content)
