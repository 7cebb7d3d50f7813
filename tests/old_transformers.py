"""An older transformers beside the one that is installed, over the same PyTorch: what exports must load in, too."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

VERSION = "4.57.6"
PACKAGES = (f"transformers=={VERSION}", "tokenizers==0.22.2", "huggingface_hub==0.36.2")
INSTALL_SECONDS = 300


@pytest.fixture(scope="session")
def old_transformers(request: pytest.FixtureRequest) -> Path:
    """The directory that PYTHONPATH has to name. It is installed once, into pytest's cache.

    Where no package index can be reached the test skips; with CONCORD_NEEDS_TRANSFORMERS_4 in the environment it fails.
    """
    cache: Path = request.config.cache.mkdir("transformers")  # type: ignore[union-attr]
    if not (cache / VERSION).is_dir():
        with TemporaryDirectory(dir=cache) as directory:
            target = Path(directory) / VERSION
            options = ["--quiet", "--no-compile", "--no-deps", "--disable-pip-version-check"]
            command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *PACKAGES]
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            if done.returncode:
                why = f"pip cannot install {PACKAGES[0]}: {done.stderr.strip()[-300:]}"
                (pytest.fail if os.environ.get("CONCORD_NEEDS_TRANSFORMERS_4") else pytest.skip)(why)
            if not (cache / VERSION).is_dir():  # else another process was first
                target.rename(cache / VERSION)
    return cache / VERSION
