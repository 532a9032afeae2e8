"""The built site, a server of it on this machine, and a browser if there is one."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HTML = ROOT / "docs" / "_build" / "html"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Path:
    if not (HTML / "index.html").exists():
        pytest.fail("there is no site to look at: make docs builds it")
    return HTML


@pytest.fixture(scope="session")
def address(site) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """Skipped where none can start: tried in another process, which it would end."""
    script = Path(__file__).with_name("browser.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        pytest.skip(f"no browser starts here (pip install '.[browser]'): {last}")
    sys.path.insert(0, str(script.parent))
    from browser import Browser

    return Browser()
