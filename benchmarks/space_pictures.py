"""Take the screenshots of the Space that the documentation shows.

    python benchmarks/space_pictures.py --cache build/space --out docs/images

This needs Playwright and Chromium (`make browser`). The Space shows the embedded model and its town.
"""

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from space_load import serving

_SIZE = {"width": 1240, "height": 1000}


def take_pictures(url: str, out: Path, example: int) -> None:
    """Locate an example, open the explanation of a match, and save both pages."""
    with sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport=_SIZE, color_scheme="light")
        page.goto(url)
        page.locator(".strip button").nth(example).click()
        page.wait_for_selector(".verdict")
        _save(page, out / "space-localise.webp")
        page.locator(".card button").first.click()
        page.wait_for_selector(".bars")
        page.mouse.move(2, 2)
        _save(page, out / "space-why.webp")
        browser.close()


def _save(page: Any, path: Path) -> None:
    page.wait_for_timeout(1500)  # until pictures are loaded and scrolling ends
    page.evaluate("document.activeElement.blur()")
    Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB").save(path, quality=80, method=6)


def main() -> None:
    """Start the Space and take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("build/space"), help="Folder of the town and its index.")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--example", type=int, default=0, help="Number of the example, from 0.")
    options = parser.parse_args()
    with serving(options.cache) as server:
        take_pictures(server.url, options.out, options.example)


if __name__ == "__main__":
    main()
