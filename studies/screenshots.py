"""Screenshots of the page, as a visitor sees it: `python -m studies.screenshots --out docs/page`.

Drives the `chromium` of this machine over the run that ships, or that of --run.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError
from cllm.run import SHIPPED_VOIDS, existing_run

CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking")  # fmt: skip
ASKED = "mode=void&n=3&novel=1&valid=1&hit=1&query=soup+leeks&written=1"  # the first listed


@dataclass(frozen=True)
class Shot:
    """One picture: its name, the window, and what the address says."""

    name: str
    width: int
    height: int
    address: str


SHOTS = (
    Shot("desk-light", 1440, 1000, f"theme=light&{ASKED}"),
    Shot("desk-dark", 1440, 1000, f"theme=dark&{ASKED}"),
    Shot("tablet-light", 900, 1200, f"theme=light&{ASKED}"),
    Shot("tablet-dark", 900, 1200, f"theme=dark&{ASKED}"),
    Shot("phone-light", 390, 844, f"theme=light&{ASKED}"),
    Shot("phone-dark", 390, 844, f"theme=dark&{ASKED}"),
)


def main() -> None:
    """Take them all; print their paths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/page"))
    parser.add_argument("--run", type=Path, default=SHIPPED_VOIDS)
    parser.add_argument("--only", nargs="*", help="names of pictures")
    options = parser.parse_args()
    set_up_logging()
    with one_line_errors():
        print(json.dumps({"files": [str(path) for path in taken(options)]}))


def taken(options: argparse.Namespace) -> list[Path]:
    """The pictures, written; InputError where there is no browser."""
    from serve.in_process import served
    from serve.local import LocalHands
    from serve.settings import Limits

    chromium = shutil.which("chromium")
    if not chromium:
        raise InputError("there is no `chromium` on this machine; `apt-get install chromium`")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise InputError("playwright is not installed; `pip install playwright`") from error
    hands = LocalHands.load(existing_run(options.run))
    options.out.mkdir(parents=True, exist_ok=True)
    with served(hands, Limits(per_minute=0)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        shots = [shot for shot in SHOTS if not options.only or shot.name in options.only]
        return [_take(browser, url, shot, options.out) for shot in shots]


def _take(browser: Any, url: str, shot: Shot, folder: Path) -> Path:  # noqa: ANN401 - a browser
    path = folder / f"{shot.name}.png"
    page = browser.new_page(viewport={"width": shot.width, "height": shot.height})
    page.goto(f"{url}/?{shot.address}")
    page.wait_for_selector("#voids li")
    page.get_by_text("decodes.").wait_for()
    page.locator("#texts summary").first.click()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)  # what moves has come to rest
    page.screenshot(path=path)
    page.close()
    return path


if __name__ == "__main__":
    main()
