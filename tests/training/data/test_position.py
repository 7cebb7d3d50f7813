"""Going forward in the order, over what is left out."""

from hypothesis import given
from hypothesis import strategies as st

from training.data.position import count_samples_read, is_skipped, skip_places, take_places
from training.records import Position


@st.composite
def positions(draw: st.DrawFn) -> Position:
    """Some ranges left out, before and after the next place."""
    position = Position(next_place=draw(st.integers(0, 60)))
    for start, length in draw(st.lists(st.tuples(st.integers(0, 80), st.integers(1, 15)), max_size=5)):
        position = skip_places(position, start, start + length)
    return position


def left_out(position: Position) -> set[int]:
    return {place for first, stop in position.skipped for place in range(first, stop)}


@given(positions(), st.integers(1, 40))
def test_taken_are_the_next_places_that_are_not_left_out(position: Position, num_samples: int) -> None:
    places, after = take_places(position, num_samples)
    free = (place for place in range(position.next_place, 1000) if place not in left_out(position))
    taken = [place for piece in places for place in piece]
    assert taken == [next(free) for _ in range(num_samples)]
    assert all(places)
    assert after == Position(next_place=taken[-1] + 1, skipped=position.skipped)


@given(positions(), st.lists(st.integers(1, 12), max_size=6))
def test_taken_places_do_not_depend_on_the_size_of_batches(position: Position, sizes: list[int]) -> None:
    taken = []
    now = position
    for size in sizes:
        places, now = take_places(now, size)
        taken += [place for piece in places for place in piece]
    whole, _ = take_places(position, sum(sizes))
    assert taken == [place for piece in whole for place in piece]


@given(positions(), st.integers(0, 80), st.integers(1, 20))
def test_skipping_adds_the_places_and_keeps_ranges_apart_and_in_order(
    position: Position, start: int, size: int
) -> None:
    more = skip_places(position, start, start + size)
    assert left_out(more) == left_out(position) | set(range(start, start + size))
    ends = [end for pair in more.skipped for end in pair]
    assert ends == sorted(set(ends)), "touching ranges are one"
    assert more.next_place == position.next_place


@given(positions())
def test_read_are_the_places_before_that_are_not_left_out(position: Position) -> None:
    gone = left_out(position)
    for place in range(position.next_place + 1):
        assert count_samples_read(position, place) == sum(earlier not in gone for earlier in range(place))
        assert is_skipped(position, place) == (place in gone)
