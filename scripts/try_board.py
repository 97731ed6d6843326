"""Ask a real Prometheus for every figure of Grafana's board, over a server that is serving.

    llmserve run demo-engine --port 8000 &
    python scripts/try_board.py --server 127.0.0.1:8000 --prometheus /usr/bin/prometheus

Prometheus is started with docker/prometheus/prometheus.yml, its target and interval alone replaced; the server is sent
some chats meanwhile. Prints what each line of each panel has; exit code 1 if one has nothing or no number.
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "docker" / "grafana" / "boards" / "llmserve.json"
CONFIG = ROOT / "docker" / "prometheus" / "prometheus.yml"
ROUNDS = 20
WINDOW = "10s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="127.0.0.1:8000", metavar="HOST:PORT")
    parser.add_argument("--prometheus", default="prometheus", metavar="PROGRAM")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        url = f"http://127.0.0.1:{port}"
        with subprocess.Popen(_command(options.prometheus, Path(folder), options.server, port)) as prometheus:
            try:
                for _ in range(ROUNDS):
                    _chat(options.server)
                    time.sleep(0.6)
                return _report(url)
            finally:
                prometheus.terminate()


def _command(program: str, folder: Path, server: str, port: int) -> list[str]:
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [server]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return [
        program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip


def _chat(server: str) -> None:
    with urllib.request.urlopen(f"http://{server}/v1/models") as response:
        (model,) = json.load(response)["data"]
    content = "What is 12 + 7? " * 8  # long enough for a block of the prefix cache
    body = {"model": model["id"], "messages": [{"role": "user", "content": content}], "max_tokens": 16}
    request = urllib.request.Request(
        f"http://{server}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        response.read()


def _report(url: str) -> int:
    code = 0
    for panel in json.loads(BOARD.read_text())["panels"]:
        for target in panel["targets"]:
            values = _values(url, target["expr"])
            good = bool(values) and all(math.isfinite(value) for value in values)
            code |= not good
            figures = ", ".join(f"{value:.4g}" for value in values)
            print(f"{'ok     ' if good else 'NOTHING'} {panel['title']} / {target['legendFormat']}: {figures}")
    return code


def _values(url: str, expression: str) -> list[float]:
    query = expression.replace("$__rate_interval", WINDOW).replace("$model", ".*").replace("$instance", ".*")
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as response:
        answer: dict[str, Any] = json.load(response)
    return [float(series["value"][1]) for series in answer["data"]["result"]]


if __name__ == "__main__":
    sys.exit(main())
