"""The position of a training in the order of samples: which places come next, and which are skipped."""

from training.records import Position


def take_places(position: Position, num_samples: int) -> tuple[tuple[range, ...], Position]:
    """Return the places of the next `num_samples` samples, in order, without skipped ones, and the position after."""
    places: list[range] = []
    place, left = position.next_place, num_samples
    for first, stop in position.skipped:
        if stop <= place:
            continue
        if place + left <= first:
            break
        if place < first:
            places.append(range(place, first))
            left -= first - place
        place = stop
    if left:
        places.append(range(place, place + left))
        place += left
    return tuple(places), position.model_copy(update={"next_place": place})


def skip_places(position: Position, start: int, stop: int) -> Position:
    """Return the position with the places from `start` to `stop - 1` skipped as well; ranges that touch become one.

    Requires start < stop. A skipped place counts as never read, so `next_place` should not be past `start`.
    """
    merged: list[tuple[int, int]] = []
    for first, last in sorted([*position.skipped, (start, stop)]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return position.model_copy(update={"skipped": tuple(merged)})


def count_samples_read(position: Position, place: int) -> int:
    """Return how many samples were read before `place`, which is at most next_place."""
    num_skipped = sum(min(stop, place) - first for first, stop in position.skipped if first < place)
    return place - num_skipped


def is_skipped(position: Position, place: int) -> bool:
    """Return whether a place is skipped."""
    return any(first <= place < stop for first, stop in position.skipped)
