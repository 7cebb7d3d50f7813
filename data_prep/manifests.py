"""The manifests of the stages in data_prep: clean documents, a tokenizer, token shards."""

from pydantic import BaseModel, ConfigDict

from configs.base import Manifest

_MAX_NAMED = 6
"""Most sources and languages that a summary names."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusCount(_Entry):
    """Counts of the documents of one source in one language: read = kept + held out + all that were dropped."""

    source: str
    language: str
    num_read: int
    num_kept: int
    num_held_out: int
    dropped: dict[str, int]
    """Reason -> number of documents."""

    kept_bytes: int
    """UTF-8 bytes of the kept documents."""


class CorpusShard(_Entry):
    """A file of documents of one source, ordered by language: JSON lines compressed with Zstandard."""

    path: str
    source: str
    num_documents: int


class UnreadableRecord(_Entry):
    """A record of a source that could not be read as a document."""

    where: str
    reason: str


class CleanCorpus(Manifest):
    """Clean documents: the shards to train on, and those of what is held out."""

    shards: tuple[CorpusShard, ...]
    held_out: tuple[CorpusShard, ...]

    counts: tuple[CorpusCount, ...]
    """One entry for each source and language, ordered by source, then language."""

    unreadable: tuple[UnreadableRecord, ...]

    def summary(self) -> str:
        read, kept = sum(c.num_read for c in self.counts), sum(c.num_kept for c in self.counts)
        held = sum(c.num_held_out for c in self.counts)
        languages = len({c.language for c in self.counts})
        dropped = read - kept - held
        parts = [f"{kept:,} kept", f"{held:,} held out{self._without_held_out()}"]
        parts += [f"{dropped:,} dropped"] if dropped else []
        parts += [f"{len(self.unreadable):,} unreadable"] if self.unreadable else []
        return f"{read:,} documents in {languages} languages: {', '.join(parts)}"

    def _without_held_out(self) -> str:
        """Return which sources and languages have text to train on and none to score, in words."""
        missing = [f"{c.source}/{c.language}" for c in self.counts if c.num_kept and not c.num_held_out]
        if not missing:
            return ""
        more = len(missing) - _MAX_NAMED
        return f" (none of {', '.join(missing[:_MAX_NAMED])}{f' and {more} more' if more > 0 else ''})"


class Certificate(_Entry):
    """Proof that SentencePiece and the exported tokenizer.json gave the same ids, with the checksums of both files."""

    num_texts: int
    num_languages: int
    model_sha256: str
    tokenizer_json_sha256: str


class TrainedTokenizer(Manifest):
    """A tokenizer: `tokenizer.model` (SentencePiece) and `hugging_face/` (tokenizer.json and its config)."""

    vocab_size: int
    eos_id: int
    pad_id: int
    sample_bytes: dict[str, int]
    """Language -> UTF-8 bytes of the text that it was trained on."""

    certificate: Certificate

    def summary(self) -> str:
        proof = f"{self.certificate.num_texts:,} texts in {self.certificate.num_languages} languages"
        return f"{self.vocab_size:,} pieces; SentencePiece and tokenizer.json give equal ids on {proof}"


class Segment(_Entry):
    """The documents of one language, which stand side by side in a token shard."""

    language: str
    num_documents: int
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes of the text."""


class TokenShard(_Entry):
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
        entropy = f"unigram entropy {self.unigram_entropy:.2f} nats"
        return f"{self.num_tokens:,} tokens, {text / self.num_tokens:.2f} bytes a token, {entropy}"
