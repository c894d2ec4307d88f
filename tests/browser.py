"""A headless Chromium for tests, from Debian's packages, which root may install; it reaches no other machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import debian

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


class NoBrowserError(RuntimeError):
    """This machine cannot have one; the message says why."""


def install() -> None:
    """Install what is missing of Chromium and its driver with apt.

    Raises:
        NoBrowserError: it is missing, and this is no machine to install it on, or apt fails.
    """
    missing = sorted(package for program, package in PACKAGES.items() if shutil.which(program) is None)
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoBrowserError(f"{' and '.join(missing)} not installed: sudo apt-get install -y {' '.join(missing)}")
    if fault := debian.install(missing):
        raise NoBrowserError(fault)


@contextmanager
def running_browser() -> Iterator[Any]:
    """A browser that logs its console and every request.

    Raises:
        NoBrowserError: there is none and none can be installed.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    install()
    options = Options()
    for option in OPTIONS:
        options.add_argument(option)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def requests(browser: Any) -> list[str]:
    """The address of every request since this was last asked."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
