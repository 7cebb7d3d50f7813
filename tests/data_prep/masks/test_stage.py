"""What earlier corpora have is masked, documents in are kept, held out, dropped or masked, and nothing else changes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import Artifact, UserError
from configs.data.stages import DeduplicateConfig
from data_prep.cleaning import duplicates
from data_prep.manifests import CleanCorpus
from data_prep.masks import shard_pass
from data_prep.masks.manifest import Mask
from data_prep.masks.reading import find_mask, mask_of, masked_counts, read_held_out, read_unmasked
from data_prep.masks.stage import deduplicate
from tests.data_prep.corpora import INLINE, clean_config, cleaned, held_out, kept, sentences, source, write_lines


def corpus_of(directory: Path, name: str, texts: list[tuple[str, str]], **changes: object) -> Artifact[CleanCorpus]:
    path = write_lines(directory / f"{name}.jsonl", texts)
    held = {"held_out": {"share": 0.2}, "shard_bytes": 700} | changes
    return cleaned(directory / f"clean-{name}", clean_config(source(name, path), **held))


def masked(
    directory: Path,
    corpus: Artifact[CleanCorpus],
    *earlier: Artifact[CleanCorpus],
    similarity: float | None = None,
) -> Artifact[Mask]:
    config = DeduplicateConfig(held_out_similarity=similarity)
    return Artifact(directory, deduplicate(config, corpus=corpus, earlier=earlier, out=directory, executor=INLINE))


def remaining(corpus: Artifact[CleanCorpus], mask: Artifact[Mask]) -> list[str]:
    shards = corpus.manifest.shards
    return [d.text for s in shards for d in read_unmasked(corpus.dir / s.path, mask_of(mask, s))]


@pytest.fixture
def corpora(tmp_path: Path) -> list[Artifact[CleanCorpus]]:
    """Three sources with texts in common, in two languages."""
    texts = [("en" if i % 3 else "sw", text) for i, text in enumerate(sentences(120))]
    return [
        corpus_of(tmp_path, "web", texts[:60]),
        corpus_of(tmp_path, "books", texts[40:90]),
        corpus_of(tmp_path, "notes", [("fr", text) for _, text in texts[30:45]] + texts[80:120]),
    ]


@pytest.mark.parametrize("partition_documents", [1 << 21, 5])
def test_the_earlier_source_keeps_what_several_have(
    tmp_path: Path,
    corpora: list[Artifact[CleanCorpus]],
    monkeypatch: pytest.MonkeyPatch,
    partition_documents: int,
) -> None:
    monkeypatch.setattr(duplicates, "PARTITION_DOCUMENTS", partition_documents)
    seen: set[str] = set()
    for number, corpus in enumerate(corpora):
        mask = masked(tmp_path / f"mask-{number}", corpus, *corpora[:number])
        own = [document.text for document in kept(corpus)]
        own_held_out = [document.text for document in held_out(corpus)]
        assert remaining(corpus, mask) == [text for text in own if text not in seen]
        assert [d.text for d in read_held_out(corpus, mask)] == [text for text in own_held_out if text not in seen]
        seen |= {*own, *own_held_out}
    assert len(seen) == 120


def test_counts_say_what_is_masked(tmp_path: Path, corpora: list[Artifact[CleanCorpus]]) -> None:
    mask = masked(tmp_path / "mask", corpora[2], *corpora[:2])
    counts = {(c.source, c.language): c for c in masked_counts([corpora[2].manifest], [mask.manifest])}
    before = {(c.source, c.language): c for c in corpora[2].manifest.counts}
    assert counts.keys() == before.keys()
    texts = remaining(corpora[2], mask)
    assert sum(count.num_kept for count in counts.values()) == len(texts)
    assert sum(count.kept_bytes for count in counts.values()) == sum(len(text.encode()) for text in texts)
    assert counts["notes", "fr"].num_kept == 0 and counts["notes", "fr"].dropped["in_earlier_source"] == 15
    for key, count in counts.items():
        assert count.num_read == before[key].num_read
        assert count.num_read == count.num_kept + count.num_held_out + sum(count.dropped.values())
    assert "documents of earlier sources" in mask.manifest.summary()


def test_a_mask_without_earlier_sources_masks_nothing(tmp_path: Path, corpora: list[Artifact[CleanCorpus]]) -> None:
    mask = masked(tmp_path / "mask", corpora[0])
    assert mask.manifest.shards == () and masked_counts([corpora[0].manifest], [mask.manifest])
    assert remaining(corpora[0], mask) == [document.text for document in kept(corpora[0])]


def test_a_mask_of_another_corpus_is_refused(tmp_path: Path, corpora: list[Artifact[CleanCorpus]]) -> None:
    mask = masked(tmp_path / "mask", corpora[1], corpora[0])
    assert find_mask(corpora[1], [mask]) == mask and find_mask(corpora[0], []) is None
    with pytest.raises(UserError, match="no mask is one of clean-web"):
        find_mask(corpora[0], [mask])


def test_masking_twice_gives_equal_files(tmp_path: Path, corpora: list[Artifact[CleanCorpus]]) -> None:
    first = masked(tmp_path / "a", corpora[1], corpora[0])
    (tmp_path / "b" / "parts").mkdir(parents=True)
    (tmp_path / "b" / "parts" / "found-00000.npy").write_bytes(b"half")
    second = masked(tmp_path / "b", corpora[1], corpora[0])
    assert first.manifest == second.manifest and first.manifest.shards
    for shard in first.manifest.shards:
        assert (np.load(tmp_path / "a" / shard.path) == np.load(tmp_path / "b" / shard.path)).all()
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"masks"}


def near_copy(text: str) -> str:
    """Return the text with a word changed, in other case and with other punctuation."""
    words = text.upper().split()
    return "- " + "  ".join([*words[:20], "otherwise", *words[21:]]) + "!!"


def test_near_copies_of_held_out_texts_are_left_out_here_and_in_later_sources(tmp_path: Path) -> None:
    texts = [" ".join(sentences(6, of=f"page {i}")) for i in range(80)]
    web = corpus_of(tmp_path, "web", [("en", text) for text in texts])
    held = [document.text for document in held_out(web)]
    assert 5 < len(held) < 40
    copies = [near_copy(text) for text in held]
    other = [" ".join(sentences(6, of=f"leaf {i}")) for i in range(20)]
    rows = [("en", text) for text in [*copies, *other]]
    books = corpus_of(tmp_path, "books", rows, held_out={"share": 0})
    mask = masked(tmp_path / "mask", books, web, similarity=0.8)
    assert remaining(books, mask) == [d.text for d in kept(books) if d.text in other]
    (count,) = mask.manifest.counts
    assert count.dropped == {"near_held_out": len(copies)}
    alone = corpus_of(tmp_path, "both", [*((("en", text)) for text in texts), *rows])
    again = masked(tmp_path / "mask-alone", alone, similarity=0.8)
    held_again = {near_copy(d.text) for d in held_out(alone)} & {d.text for d in kept(alone)}
    assert held_again and not held_again & set(remaining(alone, again))
    assert masked(tmp_path / "mask-exact", books, web).manifest.counts == ()


def test_finished_shards_are_not_masked_again(
    tmp_path: Path, corpora: list[Artifact[CleanCorpus]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = masked(tmp_path / "calm", corpora[2], *corpora[:2], similarity=0.8)
    original, signed = shard_pass.sign_all, list[int]()

    def dying(texts: Iterable[str]) -> Any:
        if len(signed) == 2:
            raise KeyboardInterrupt
        signed.append(0)
        return original(texts)

    with monkeypatch.context() as patch:
        patch.setattr(shard_pass, "sign_all", dying)
        with pytest.raises(KeyboardInterrupt):
            masked(tmp_path / "out", corpora[2], *corpora[:2], similarity=0.8)
    assert masked(tmp_path / "out", corpora[2], *corpora[:2], similarity=0.8).manifest == calm.manifest
