"""The manifests of the stages in data_prep: clean documents, a tokenizer, token shards."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from configs.base import Manifest
from configs.data.languages import UNDETERMINED, is_undetermined, macrolanguage

_MAX_NAMED = 6
"""Most sources and languages that a summary names."""


class Entry(BaseModel):
    """A part of a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusCount(Entry):
    """Counts of the documents of one source in one language: read = kept + held out + all that were dropped."""

    source: str
    language: str
    num_read: int
    num_kept: int
    num_held_out: int
    dropped: dict[str, int]
    """Reason -> number of documents."""

    changed: dict[str, int] = {}
    """Kind of change -> number of documents that were normalised so, of those that are within the bounds."""

    found: dict[str, int] = {}
    """What was found in the documents that filters leave, duplicates among them: those with mathematics (`math`), code
    (`code`) or a `table`, and with delimiters of mathematics that lack their other half (`math_unbalanced`); personal
    data that was replaced, by kind (`email-pii`)."""

    kept_bytes: int
    """UTF-8 bytes of the kept documents."""


class IdentifiedCount(Entry):
    """How many documents of a language, as their source says it, were found to be in another, or the same."""

    source: str
    declared: str
    identified: str
    num_documents: int

    @property
    def agrees(self) -> bool:
        """Whether both are of one macrolanguage, or the source did not say."""
        return is_undetermined(self.declared) or macrolanguage(self.declared) == macrolanguage(self.identified)


class CorpusShard(Entry):
    """A file of documents of one source, ordered by language: JSON lines compressed with Zstandard."""

    path: str
    source: str
    num_documents: int
    digests: str
    """File of the digests of its documents (data_prep/cleaning/held_out.py)."""


class UnreadableRecord(Entry):
    """A record of a source that could not be read as a document."""

    where: str
    reason: str
    detail: str = ""
    """What would help to mend it."""

    def __str__(self) -> str:
        return f"{self.where} ({self.reason}{': ' if self.detail else ''}{self.detail})"


class CleanCorpus(Manifest):
    """Clean documents: the shards to train on, and those of what is held out."""

    shards: tuple[CorpusShard, ...]
    held_out: tuple[CorpusShard, ...]

    counts: tuple[CorpusCount, ...]
    """One entry for each source and language, ordered by source, then language."""

    unreadable: tuple[UnreadableRecord, ...]

    identified: tuple[IdentifiedCount, ...] = ()
    """By source, what its documents say and what was found, of all whose language was identified."""

    thresholds: str = ""
    """File of the filters' bounds that were applied to each language; empty if there are no filters."""

    not_learned: Mapping[str, int] = Field(default_factory=dict)
    """Languages with too few documents to learn bounds from -> how many were read for it."""

    samples: str = ""
    """File of samples of what the filters dropped; empty if there are no filters. As all that shows text of the
    sources beside the documents themselves, each of its rows says so: `contains_text: true`."""

    num_empty_files: int = 0
    """Files, and members of archives, without a record; `files.jsonl` names them."""

    def summary(self) -> str:
        read, kept = sum(c.num_read for c in self.counts), sum(c.num_kept for c in self.counts)
        held = sum(c.num_held_out for c in self.counts)
        languages = len({c.language for c in self.counts})
        dropped = read - kept - held
        parts = [f"{kept:,} kept", f"{held:,} held out{self._without_held_out()}"]
        parts += [f"{dropped:,} dropped"] if dropped else []
        parts += [f"{len(self.unreadable):,} unreadable"] if self.unreadable else []
        parts += [f"{self.num_empty_files:,} files without a record"] if self.num_empty_files else []
        unlabelled = sum(c.num_read for c in self.counts if c.language == UNDETERMINED)
        parts += [f"{unlabelled:,} of no known language (und)"] if unlabelled else []
        return f"{read:,} documents in {languages} languages: {', '.join(parts)}"

    def _without_held_out(self) -> str:
        """Return which sources and languages have text to train on and none to score, in words."""
        missing = [f"{c.source}/{c.language}" for c in self.counts if c.num_kept and not c.num_held_out]
        if not missing:
            return ""
        more = len(missing) - _MAX_NAMED
        return f" (none of {', '.join(missing[:_MAX_NAMED])}{f' and {more} more' if more > 0 else ''})"


class Certificate(Entry):
    """Proof that all that reads the tokenizer gave the same ids on real and adversarial texts, and what of it.

    On none of the texts, which spell all special pieces, a special one was among the ids.
    """

    num_texts: int
    num_languages: int
    model_sha256: str
    """Empty if there is no SentencePiece model."""

    tokenizer_json_sha256: str
    loaders: tuple[str, ...] = ()
    """Who gave these ids, each with the flag that it needs where it needs one."""

    num_changed: int = 0
    """Texts that are not decoded to themselves, since the tokenizer normalises or has no piece for a character."""

    changed_characters: tuple[str, ...] = ()
    """Characters, as `U+2581`, that are not decoded to themselves: the first twenty that these texts have."""

    num_unknown: int = 0
    """Texts with the unknown piece among their ids."""

    notes: tuple[str, ...] = ()
    """What else is to be known, in sentences."""

    def describe_changed(self) -> str:
        """Return how many of the texts are not decoded to themselves, and for which characters; empty if none."""
        if not self.num_changed:
            return ""
        characters = f": {', '.join(self.changed_characters)}" if self.changed_characters else ""
        return f"{self.num_changed:,} of {self.num_texts:,} texts are not decoded to themselves{characters}"


class TrainedTokenizer(Manifest):
    """A tokenizer that was trained here or imported: `hugging_face/` (tokenizer.json and its config), and
    `tokenizer.model` if it is a SentencePiece model."""

    vocab_size: int
    """Ids, and rows of an embedding: those without a piece included, which the model it was imported from has."""

    eos_id: int
    """Id of the piece that ends each document."""

    pad_id: int | None
    """None if there is none of its own: a row that pads is not trained, so it may not be that of another piece."""

    sample_bytes: dict[str, int]
    """Language -> UTF-8 bytes of the text that it was trained on; empty if it was imported."""

    certificate: Certificate
    bos_id: int | None = None
    """Id of the piece that begins each document; None if no piece does."""

    num_pieces: int | None = None
    """Ids that have a piece; None: all."""

    @property
    def boundary_id(self) -> int:
        """The id at which a document begins in a row of tokens: its first, or else the end of the one before it."""
        return self.eos_id if self.bos_id is None else self.bos_id

    def summary(self) -> str:
        shown = self.certificate
        proof = f"{shown.num_texts:,} texts in {shown.num_languages} languages"
        proof += f"; {changed}" if (changed := shown.describe_changed()) else ""
        if self.num_pieces is None:
            return f"{self.vocab_size:,} pieces; SentencePiece and tokenizer.json give equal ids on {proof}"
        return (
            f"{self.num_pieces:,} pieces, imported, for {self.vocab_size:,} rows; {len(shown.loaders)} "
            f"loaders give equal ids on {proof}"
        )


class Segment(Entry):
    """The documents of one language, which stand side by side in a token shard."""

    language: str
    num_documents: int
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes of the text."""


class TokenShard(Entry):
    """The files `<path>.bin` and `<path>.idx`; the segments follow each other in them."""

    path: str
    source: str
    segments: tuple[Segment, ...]


class TokenizedCorpus(Manifest):
    """Token shards in Megatron's format; every document ends with the end-of-text piece."""

    shards: tuple[TokenShard, ...]
    validation: tuple[TokenShard, ...] = ()
    """Held-out text for validation while training: a shard a source, in each language the smallest digests first."""

    vocab_size: int
    eos_id: int
    unigram_entropy: float
    """Entropy of the pieces' frequencies, in nats a token: the loss of the best model that ignores context."""

    @property
    def num_tokens(self) -> int:
        return sum(segment.num_tokens for shard in self.shards for segment in shard.segments)

    def summary(self) -> str:
        text = sum(segment.num_bytes for shard in self.shards for segment in shard.segments)
        if not self.num_tokens:
            return "no tokens: earlier sources have all of its text"
        entropy = f"unigram entropy {self.unigram_entropy:.2f} nats"
        return f"{self.num_tokens:,} tokens, {text / self.num_tokens:.2f} bytes a token, {entropy}"
