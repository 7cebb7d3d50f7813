"""Formulas of scores."""

import math


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Bits for each UTF-8 byte of a text whose negative log-likelihood is `nats`.

    Comparable between models with unlike tokenizers, within one language.
    """
    return nats / math.log(2) / num_bytes
