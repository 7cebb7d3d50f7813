"""Paragraphs that several documents have are cut out of all but the first; what is read, counted and tokenised fits."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import Artifact
from configs.data.stages import DeduplicateConfig
from data_prep.manifests import CleanCorpus
from data_prep.masks import paragraphs, shard_pass, stage
from data_prep.masks.manifest import REPEATED_PARAGRAPHS, Mask
from data_prep.masks.paragraphs import cut, find_paragraphs
from data_prep.masks.reading import mask_of, masked_counts, read_unmasked
from data_prep.masks.stage import deduplicate
from tests.data_prep.corpora import INLINE, clean_config, cleaned, kept, source, write_lines

FOOTER = "All rights reserved by the owner of this page, who may be written to at any time of the year."


def paragraph(seed: int, number: int = 20) -> str:
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices("abcdefghijklmnop", k=7)) for _ in range(number))


def corpus_of(directory: Path, name: str, texts: list[str], **changes: Any) -> Artifact[CleanCorpus]:
    path = write_lines(directory / f"{name}.jsonl", [("en", text) for text in texts])
    given = {"held_out": {"share": 0}, "shard_bytes": 3000} | changes
    return cleaned(directory / f"clean-{name}", clean_config(source(name, path), **given))


def masked(
    directory: Path,
    corpus: Artifact[CleanCorpus],
    *earlier: Artifact[CleanCorpus],
    masks: tuple[Artifact[Mask], ...] = (),
    near: Any = None,
    **given: Any,
) -> Artifact[Mask]:
    config = DeduplicateConfig.model_validate({"paragraphs": given, "near": near, "held_out_similarity": None})
    inputs = {"corpus": corpus, "earlier": earlier, "earlier_masks": masks}
    return Artifact(directory, deduplicate(config, **inputs, out=directory, executor=INLINE))


def remaining(corpus: Artifact[CleanCorpus], mask: Artifact[Mask]) -> list[str]:
    shards = corpus.manifest.shards
    return [d.text for s in shards for d in read_unmasked(corpus.dir / s.path, mask_of(mask, s))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one line of text", ["one line of text"]),
        ("first line here\nsecond line here", ["first line here", "second line here"]),
        ("first line\nwraps here\n\nsecond one", ["first line\nwraps here", "second one"]),
        ("  first line  \n \t\n\n  second line ", ["first line", "second line"]),
        ("short\n\n\nlong enough", ["long enough"]),
        ("", []),
        ("\n\n\n", []),
    ],
)
def test_paragraphs_are_parted_by_blank_lines_or_else_by_lines(text, expected):
    assert [text[start:stop] for start, stop in find_paragraphs(text, 8)] == expected


def test_what_is_cut_leaves_the_rest_as_it_was():
    text = "first\n\nsecond\n\nthird"
    assert cut(text, [(7, 13)]) == "first\n\nthird"
    assert cut(text, [(0, 5)]) == "second\n\nthird"
    assert cut(text, [(15, 20)]) == "first\n\nsecond"
    assert cut(text, [(0, 5), (7, 13)]) == "third"
    assert cut(text, [(0, 5), (7, 13), (15, 20)]) == ""


def test_the_first_document_keeps_what_several_have(tmp_path):
    own = [paragraph(i) for i in range(6)]
    texts = [f"{one}\n\n{FOOTER}" for one in own[:4]] + own[4:]
    corpus = corpus_of(tmp_path, "web", texts)
    mask = masked(tmp_path / "mask", corpus)
    assert remaining(corpus, mask) == [texts[0], *own[1:]]
    (count,) = mask.manifest.counts
    assert (count.num_cut_paragraphs, count.num_cut_bytes, count.dropped) == (3, 3 * len(f"\n\n{FOOTER}"), {})
    assert ", 3 paragraphs" in mask.manifest.summary()
    (total,) = masked_counts([corpus.manifest], [mask.manifest])
    assert total.kept_bytes == sum(map(len, remaining(corpus, mask))) and total.num_kept == 6


@pytest.mark.parametrize(("min_documents", "is_cut"), [(2, True), (3, True), (4, False)])
def test_a_paragraph_that_few_documents_have_stays(tmp_path, min_documents, is_cut):
    texts = [f"{paragraph(i)}\n\n{FOOTER}" for i in range(3)]
    corpus = corpus_of(tmp_path, "web", texts)
    left = remaining(corpus, masked(tmp_path / "mask", corpus, min_documents=min_documents))
    assert (left != texts) == is_cut


def test_a_document_that_repeats_itself_is_one_document(tmp_path):
    texts = [f"{FOOTER}\n\n{FOOTER}\n\n{paragraph(1)}\n\n{FOOTER}", paragraph(2)]
    corpus = corpus_of(tmp_path, "web", texts)
    assert remaining(corpus, masked(tmp_path / "mask", corpus, min_documents=2)) == texts


def test_a_document_of_which_too_little_remains_is_left_out(tmp_path):
    texts = [f"{paragraph(i)}\n\n{FOOTER}" for i in range(3)] + [f"{FOOTER}\n\nlittle more"]
    corpus = corpus_of(tmp_path, "web", texts)
    mask = masked(tmp_path / "mask", corpus, min_remaining=0.3)
    assert remaining(corpus, mask) == [texts[0], paragraph(1), paragraph(2)]
    assert mask.manifest.counts[0].dropped == {REPEATED_PARAGRAPHS: 1}
    whole = masked(tmp_path / "whole", corpus, min_remaining=0)
    assert remaining(corpus, whole) == [texts[0], paragraph(1), paragraph(2), "little more"]


@pytest.mark.parametrize("min_remaining", [0, 0.02])
def test_a_document_of_which_nothing_remains_is_left_out_whatever_may_remain(tmp_path, min_remaining):
    texts = [f"{FOOTER}\n\n{paragraph(1)}", f"{FOOTER}\n\n{paragraph(1)}\n", FOOTER, f"{paragraph(2)}\n\n{FOOTER}"]
    corpus = corpus_of(tmp_path, "web", texts)
    mask = masked(tmp_path / "mask", corpus, min_documents=2, min_remaining=min_remaining)
    left = remaining(corpus, mask)
    assert left == [texts[0], paragraph(2)]
    (total,) = masked_counts([corpus.manifest], [mask.manifest])
    assert total.kept_bytes == sum(len(text.encode()) for text in left)


def test_what_is_kept_of_near_copies_is_not_left_out_for_its_paragraphs(tmp_path):
    """Its copy has gone for it: what it has of its own would be nowhere."""
    menu, own = paragraph(1, 60), paragraph(2, 12)
    texts = [f"{menu}\n\n{own}", f"{menu}\n\n{own} more", f"{menu}\n\n{paragraph(3, 90)}"]
    corpus = corpus_of(tmp_path, "web", [texts[2], *texts[:2]])
    left = remaining(corpus, masked(tmp_path / "mask", corpus, near={"similarity": 0.8}, min_documents=2))
    assert left == [texts[2], own]


def test_an_earlier_corpus_keeps_its_paragraphs(tmp_path):
    web = corpus_of(tmp_path, "web", [f"{paragraph(1)}\n\n{FOOTER}"])
    books = corpus_of(tmp_path, "books", [f"{paragraph(2)}\n\n{FOOTER}", f"{paragraph(3)}\n\n{FOOTER}"])
    assert remaining(books, masked(tmp_path / "mask", books, web)) == [paragraph(2), paragraph(3)]


def test_a_document_that_its_own_mask_leaves_out_keeps_no_paragraph_from_a_later_corpus(tmp_path):
    """Web's third document has little but a menu that the first ones have, and the notice goes with it."""
    menus = [paragraph(50 + i) for i in range(4)]
    texts = [f"{paragraph(i)}\n\n" + "\n\n".join(menus) for i in (1, 2)]
    web = corpus_of(tmp_path, "web", [*texts, "\n\n".join([*menus, FOOTER])])
    books = corpus_of(tmp_path, "books", [f"{paragraph(i)}\n\n{FOOTER}" for i in (3, 4)])
    first = masked(tmp_path / "first", web, min_documents=2)
    assert not any(FOOTER in text for text in remaining(web, first))
    assert not any(FOOTER in text for text in remaining(books, masked(tmp_path / "blind", books, web)))
    left = remaining(books, masked(tmp_path / "mask", books, web, masks=(first,), min_documents=2))
    assert left == [f"{paragraph(3)}\n\n{FOOTER}", paragraph(4)]


def test_what_is_left_out_as_a_near_copy_keeps_no_paragraph(tmp_path):
    """The longest of a cluster is kept, though it comes last: it is the first that has the paragraph."""
    base = paragraph(1, 80)
    texts = [f"{base}\n\n{FOOTER}", f"{base} and one more\n\n{FOOTER}"]
    texts += [f"{paragraph(i, 40)}\n\n{FOOTER}" for i in (2, 3)]
    corpus = corpus_of(tmp_path, "web", texts)
    mask = masked(tmp_path / "mask", corpus, near={"keep": "longest"}, min_documents=2)
    assert remaining(corpus, mask) == [texts[1], paragraph(2, 40), paragraph(3, 40)]


def test_partitions_and_tables_change_nothing_nor_does_a_kill(tmp_path, monkeypatch):
    footers = [paragraph(100 + i) for i in range(5)]
    texts = [f"{paragraph(i)}\n\n{footers[i % 5]}\n\n{footers[(i + 1) % 5]}" for i in range(60)]
    corpus = corpus_of(tmp_path, "web", texts)
    whole = masked(tmp_path / "whole", corpus)
    monkeypatch.setattr(paragraphs, "PARTITION_ROWS", 20)
    monkeypatch.setattr(paragraphs, "TABLE_ROWS", 10)
    monkeypatch.setattr(shard_pass, "_BATCH_DOCUMENTS", 3)
    done, original = list[int](), stage.finish_shard

    def dying(item: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(0)
        return original(item)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "finish_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            masked(tmp_path / "cut", corpus)
    again = masked(tmp_path / "cut", corpus)
    assert again.manifest == whole.manifest
    files = [sorted(p.relative_to(m.dir) for p in m.dir.rglob("*") if p.is_file()) for m in (whole, again)]
    assert files[0] == files[1] and len(files[0]) > 1
    assert all((whole.dir / name).read_bytes() == (again.dir / name).read_bytes() for name in files[0])


def test_paragraphs_in_any_script_are_cut_where_they_are(tmp_path):
    repeated = "Все права защищены владельцем 🙂 этой страницы, которому можно писать в любое время года и дня."
    texts = [f"{paragraph(i)}é🙂\n\n{repeated}\n\nдальше {i}" for i in range(4)]
    corpus = corpus_of(tmp_path, "web", texts)
    order = [document.text for document in kept(corpus)]
    mask = masked(tmp_path / "mask", corpus)
    assert remaining(corpus, mask) == [order[0], *(text.replace(f"\n\n{repeated}", "") for text in order[1:])]
    assert mask.manifest.counts[0].num_cut_bytes == 3 * len(f"\n\n{repeated}".encode())
    (file,) = {one.cuts for one in mask.manifest.shards if one.cuts} if len(mask.manifest.shards) == 1 else {""}
    assert not file or np.load(mask.dir / file).shape == (3, 3)


def test_a_document_that_keeps_what_others_lose_is_not_left_out(tmp_path):
    """Else nobody would have the notice: it is first in a document that has little else of its own."""
    menus = [paragraph(50 + i) for i in range(4)]
    texts = [f"{paragraph(1)}\n\n" + "\n\n".join(menus), "\n\n".join([*menus, FOOTER])]
    texts += [f"{paragraph(i)}\n\n{FOOTER}" for i in (2, 3)]
    corpus = corpus_of(tmp_path, "web", texts)
    left = remaining(corpus, masked(tmp_path / "mask", corpus, min_documents=2))
    assert left == [texts[0], FOOTER, paragraph(2), paragraph(3)]
