"""Takes the picture at the top of the README: the first screen of a report, by a headless Chromium.

    make smoke
    python docs/screenshot.py store/report-*/report.html docs/report.png

Needs Chromium or Chrome (Debian: apt-get install chromium) and nothing of Concord.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")


def main() -> None:
    """Write a PNG of the top of a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="report.html")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--width", type=int, default=1200, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=1330, help="of the window, in pixels")
    parser.add_argument("--dark", action="store_true", help="as on a dark screen")
    given = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is on the PATH; install one")
    if not given.page.is_file():
        sys.exit(f"{given.page} is no file; give the path of a report.html")
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if given.dark else ()
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless",
            "--no-sandbox",  # Chromium refuses its sandbox to root, as in a container; the page is our own
            "--hide-scrollbars",
            *QUIET,
            *dark,
            f"--user-data-dir={profile}",
            f"--window-size={given.width},{given.height}",
            f"--screenshot={given.picture.absolute()}",
            given.page.absolute().as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode or not given.picture.is_file():
        sys.exit(f"{browser} took no picture (exit code {done.returncode}): {done.stderr.strip()[-300:]}")
    print(f"{given.picture}: {given.width} x {given.height}, {given.picture.stat().st_size / 1024:,.0f} KiB")


if __name__ == "__main__":
    main()
