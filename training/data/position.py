"""Which places of the order come next, and which are left out."""

from training.records import Position


def take(position: Position, num_samples: int) -> tuple[tuple[range, ...], Position]:
    """The places of the next `num_samples` samples, in order and without the skipped ones, and the position after."""
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


def skip(position: Position, start: int, stop: int) -> Position:
    """The position with the places from `start` to `stop - 1` left out as well; ranges that touch become one.

    Takes start < stop. A place that is left out counts as never read, so go back to before the range first.
    """
    merged: list[tuple[int, int]] = []
    for first, last in sorted([*position.skipped, (start, stop)]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return position.model_copy(update={"skipped": tuple(merged)})


def num_read(position: Position, place: int) -> int:
    """How many samples were read before `place`, which is at most next_place."""
    left_out = sum(min(stop, place) - first for first, stop in position.skipped if first < place)
    return place - left_out


def is_skipped(position: Position, place: int) -> bool:
    """Whether a place is left out."""
    return any(first <= place < stop for first, stop in position.skipped)
