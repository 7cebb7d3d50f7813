"""Stragglers, by the time that ranks take without waiting."""

from training.loop.step_log import StragglerDetector


def test_a_straggler_is_named_once_with_its_host() -> None:
    detector = StragglerDetector(["a", "b", "c", "d"])
    notices = [text for _ in range(60) for text in detector.add_step([1.0, 1.1, 2.5, 0.9])]
    assert notices == [
        "rank 2 on c is a straggler, which all wait for: over 20 steps it took 2.5 times as long as the others"
    ]
    assert [text for _ in range(20) for text in detector.add_step([1.0, 1.1, 1.0, 0.9])] == []
    assert len([text for _ in range(20) for text in detector.add_step([1.0, 1.1, 2.5, 0.9])]) == 1, (
        "slow again, said again"
    )


def test_a_host_is_slow_after_several_windows_in_a_row_and_never_after_one() -> None:
    detector, slow, fast = StragglerDetector(["a", "a", "b"]), [1.0, 1.0, 2.5], [1.0, 1.0, 1.0]
    named = []
    for window in (slow, slow, fast, slow, slow, slow, slow, fast):
        for _ in range(20):
            detector.add_step(window)
        named.append(detector.slow_host)
    assert named == [None, None, None, None, None, "b", "b", None]


def test_a_slow_step_makes_no_straggler() -> None:
    detector = StragglerDetector(["a", "b"])
    rows = [[1.0, 9.0 if step % 3 == 0 else 1.0] for step in range(40)]
    assert [text for row in rows for text in detector.add_step(row)] == []
    assert [text for _ in range(40) for text in StragglerDetector(["a"]).add_step([1.0])] == []


def test_where_sequences_are_shared_by_speed_a_rank_is_compared_with_its_type() -> None:
    detector, own = StragglerDetector(["a", "b", "c"]), [1.0, 1.0, 1.0]  # all end together: the shares see to it
    found = [text for _ in range(80) for text in detector.add_step(own, [1.0, 2.0, 1.1])]
    assert found == [
        "rank 1 on b is a straggler, which gets less to do: over 20 steps it took 1.8 times as long as was "
        "measured of its type, against the others"
    ]
    assert detector.slow_host is None, "it is of use"
    named = []
    for _ in range(4):
        for _ in range(20):
            detector.add_step(own, [1.0, 1.0, 3.5])
        named.append(detector.slow_host)
    assert named == [None, None, "c", "c"], "below 0.3 of its type's speed it had better be replaced"
    alike = StragglerDetector(["a", "b", "c"])
    assert [text for _ in range(80) for text in alike.add_step(own, [4.0, 4.1, 3.9])] == []
    assert alike.slow_host is None, "what was measured was of another day"
