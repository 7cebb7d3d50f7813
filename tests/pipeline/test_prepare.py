"""A recipe made ready to be run."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from configs.base import ConfigError, InfrastructureError, UserError
from pipeline import prepare as preparing
from pipeline.stages import STAGES


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            InfrastructureError(f"source 'python': a.py cannot be read ({os.strerror(errno.ESTALE)})"),
            InfrastructureError,
        ),
        (UserError("source 'python': a.py cannot be read (Permission denied)"), ConfigError),
    ],
)
def test_a_file_system_that_does_not_answer_is_no_mistake_in_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: UserError, kind: type
) -> None:
    def observe(config: object, digest: object) -> None:
        raise error

    monkeypatch.setitem(STAGES, "clean", replace(STAGES["clean"], observe=observe))
    with pytest.raises(UserError, match=r"a\.py cannot be read") as caught:
        preparing.prepare(Path("smoke"), (f"store={tmp_path}",))
    assert type(caught.value) is kind
