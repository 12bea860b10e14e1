"""Find a Chromium for the checks of the rendered site, or install Debian's package.

No browser is downloaded from a vendor. With none to be had the checks are skipped, loudly, and fail
under CI=true. `make test` runs this file before them.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "NO BROWSER: no Chromium or Chrome was found, so these checks of the site did NOT run:\n"
    "offline, console, equations, raw markup, overflow, dark mode, alt texts, search, downloads,\n"
    "solutions, previous and next, copy buttons, interactive figures.\n"
    "Install one (Debian: apt-get install chromium), or name it with CHROME=/path/to/chrome."
)


def find() -> str | None:
    """Path of a Chromium or Chrome: $CHROME, or the first known name on PATH."""
    names = (os.environ.get("CHROME"), *NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


def install() -> None:
    """Install Debian's package, where this user may."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("No Chromium found: installing Debian's package", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = [
            "apt-get",
            "install",
            "-y",
            "--no-install-recommends",
            "chromium",
            "fonts-dejavu-core",
        ]
        for command in (["apt-get", "update", "-q"], install):
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)


def main() -> int:
    if not find():
        install()
    browser = find()
    print(f"Browser for the site's checks: {browser}" if browser else MISSING)
    return 1 if browser is None and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
