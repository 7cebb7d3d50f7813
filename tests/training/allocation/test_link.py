"""The link: start-up time and bandwidth are found again from times that have them, and never below 0."""

import numpy as np
import pytest

from training.allocation.link import fit_alpha_beta


@pytest.mark.parametrize(("alpha", "bandwidth"), [(1e-5, 5e10), (1e-3, 1e8), (2e-2, 1e9)])
def test_the_two_numbers_are_found_again(alpha, bandwidth):
    sent = [4e3, 1e5, 4e6]
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(3)
    found = fit_alpha_beta(sent, [(alpha + size / bandwidth) * by for size, by in zip(sent, noise, strict=True)])
    times = [found[0] + size / found[1] for size in sent]
    assert times == pytest.approx([alpha + size / bandwidth for size in sent], rel=0.05)
    if sent[-1] / bandwidth > alpha:
        assert found[1] == pytest.approx(bandwidth, rel=0.1)


@pytest.mark.parametrize("took", [[3e-3, 2e-3, 1e-3], [1e-6, 1e-2, 2.0], [1e-3, 1e-3, 1e-3]])
def test_noise_gives_no_negative_number(took):
    alpha, bandwidth = fit_alpha_beta([4e3, 1e5, 4e6], took)
    assert alpha > 0 and 0 < bandwidth < float("inf")
