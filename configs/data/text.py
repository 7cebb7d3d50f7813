"""The settings of what is done with each text while it is cleaned: its language, and personal data in it."""

from collections import Counter
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.base import ByContent, Config
from configs.data.languages import is_of, normalize_language
from configs.data.sources import Language
from configs.paths import PathText

Score = Annotated[float, Field(ge=0, le=1)]


class IdentifyConfig(Config):
    """How the language of each document is identified, and what is done with what is found.

    What is found is kept in the document's metadata, under `identified`: label, score and backend. How often it differs
    from what the source says is counted.
    """

    backend: Literal["cld2", "fasttext"] = "cld2"
    """Who identifies. cld2: CLD2, and py3langid where CLD2 is not sure, of some 200 languages, in memory. fasttext: the
    fastText model in the file `model`, such as lid.176, GlotLID or OpenLID. Both are checked by the text's script."""

    model: Annotated[PathText | None, Field(min_length=1), ByContent()] = None
    """File of the fastText model; relative to the directory the command is run in. What it holds is hashed."""

    min_score: Score = 0.0
    """A document with a lower score is dropped (`language_unsure`), if nothing else is said of its language."""

    min_scores: dict[Language, Score] = {}
    """Other least scores, by language: of a language without a script in any script, if nothing closer is said."""

    languages: tuple[Language, ...] = ()
    """Languages that are wanted: a document that is found to be in another is dropped (`other_language`). One without a
    script is wanted in any, with those of its macrolanguage: `no` is `nn`, too, and `uz` is `uz-Cyrl`. Left out: all
    are."""

    on_mismatch: Literal["keep", "relabel", "drop"] = "keep"
    """What is done with a document in another language than its source says: it keeps the source's label, gets the one
    that was found, or is dropped (`language_mismatch`). Members of one macrolanguage, such as Bokmål and Norwegian, or
    Croatian and Bosnian, do not differ. A document of which the source does not say the language gets the label that
    was found, whatever stands here."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.backend == "fasttext") != (self.model is not None):
            raise ValueError(
                "backend fasttext takes a model's file; set model"
                if self.model is None
                else f"model is {self.model!r}, which backend {self.backend} does not read; set backend: fasttext"
            )
        for name, tags in (("min_scores", tuple(self.min_scores)), ("languages", self.languages)):
            repeated = [label for label, n in Counter(map(normalize_language, tags)).items() if n > 1]
            if repeated:
                raise ValueError(f"{name} has {repeated[0]!r} more than once; leave one")
        return self

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        return tuple(map(normalize_language, self.languages))

    def wants(self, label: str) -> bool:
        """Return whether a language, which is given by its label, is wanted."""
        return not self._labels or any(is_of(label, wanted) for wanted in self._labels)

    @cached_property
    def _least_scores(self) -> dict[str, float]:
        return {normalize_language(tag): score for tag, score in self.min_scores.items()}

    def least_score(self, label: str) -> float:
        """Return the least score of a language, which is given by its label."""
        scores = self._least_scores
        return scores.get(label, next((scores[tag] for tag in scores if is_of(label, tag)), self.min_score))


class PersonalDataConfig(Config):
    """Personal data in texts: each is replaced by a placeholder that says what it was, `<email-pii>`, and counted.

    What is in mathematics and in code stays.
    """

    replace: tuple[Literal["email", "phone", "ip", "iban", "card"], ...] = ("email", "phone", "ip", "iban", "card")
    """What is replaced. email: addresses of mail. phone: numbers of telephones, with their country's code or after a
    word such as `tel`. ip: public addresses of the internet, where a word or a port says that it is one. iban: numbers
    of bank accounts with a right checksum. card: numbers of payment cards with a right check digit, in groups or after
    a word such as `visa`."""
