"""A real browser without a window: Chromium as Qt packages it, from a wheel.

Run as a script it says whether it can start here, for a browser that cannot ends the process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_DISABLE_SANDBOX", "1")  # which root has none of
os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--disable-gpu --no-sandbox")

from PyQt6.QtCore import QEventLoop, QUrl
from PyQt6.QtWebEngineCore import (
    QWebEngineProfile,
    QWebEngineScript,
    QWebEngineSettings,
    QWebEngineUrlRequestInterceptor,
)
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

LONGEST_PICTURE = 4000


class Requests(QWebEngineUrlRequestInterceptor):
    """Lets requests to this machine pass, and refuses and remembers all others."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def interceptRequest(self, info: Any) -> None:
        url = info.requestUrl()
        if url.scheme() in ("http", "https", "ws", "wss") and url.host() != "127.0.0.1":
            self.refused.append(url.toString())
            info.block(True)


class Browser:
    """One page at a time, of a given width."""

    def __init__(self) -> None:
        self.application = QApplication.instance() or QApplication(["browser"])
        self.requests = Requests()
        profile = QWebEngineProfile.defaultProfile()
        profile.setUrlRequestInterceptor(self.requests)
        self.view = QWebEngineView()
        settings = self.view.settings()
        settings.setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)
        self.finished: list[bool] = []
        self.view.loadFinished.connect(self.finished.append)
        self.view.show()

    def open(self, url: str, width: int = 1280, height: int = 900, mode: str = "light") -> None:
        """Load a page in light or dark, and wait until it stands still."""
        scripts = self.view.page().scripts()
        scripts.clear()
        script = QWebEngineScript()
        script.setInjectionPoint(QWebEngineScript.InjectionPoint.DocumentCreation)
        script.setWorldId(QWebEngineScript.ScriptWorldId.MainWorld)
        script.setSourceCode(f"localStorage.setItem('mode', '{mode}')")
        scripts.insert(script)
        self.view.resize(width, height)
        self.finished.clear()
        self.view.load(QUrl(url))
        self.wait(lambda: bool(self.finished), f"{url} to load")
        assert self.finished[-1], f"{url} did not load"
        self.wait_for(STANDS_STILL, url)

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript."""
        answers: list[Any] = []
        self.view.page().runJavaScript(code, answers.append)
        self.wait(lambda: bool(answers), code)
        return answers[0]

    def wait_for(self, code: str, what: str) -> None:
        """Until an expression of JavaScript is true."""
        self.wait(lambda: bool(self.run(code)), f"{code} of {what}")

    def wait(self, done: Callable[[], bool], what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds} s for {what}")
            self.application.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
            time.sleep(0.002)

    def picture(self, path: Path) -> None:
        """The whole page, or as much of its height as a picture should have."""
        height = min(int(self.run("document.documentElement.scrollHeight")), LONGEST_PICTURE)
        self.view.resize(self.view.width(), height)
        self.run("window.drawn = 0; (function next() {drawn++; requestAnimationFrame(next)})()")
        self.wait_for(f"window.innerHeight === {height} && window.drawn > 9", "the page's frames")
        path.parent.mkdir(parents=True, exist_ok=True)
        assert self.view.grab().save(str(path)), path


STANDS_STILL = """
    document.readyState === 'complete' && document.fonts.status === 'loaded'
    && [...document.images].every(image => image.loading === 'lazy' || image.complete)
    && (!document.querySelector('.math') || !!document.querySelector('mjx-container'))
    && !document.querySelector('.MathJax_Processing')
"""


if __name__ == "__main__":
    browser = Browser()
    browser.view.setHtml("<p>Hello</p>")
    browser.wait_for("document.body && document.body.innerText.trim() === 'Hello'", "a page")
    print(browser.run("navigator.userAgent"))
    sys.stdout.flush()
    os._exit(0)  # Qt's own end of a process without an event loop is noisy
