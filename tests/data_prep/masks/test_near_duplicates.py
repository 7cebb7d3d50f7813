"""Near copies are found as brute force finds them, one of a cluster is kept by the rule, and runs give the same."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import Artifact
from configs.data.stages import DeduplicateConfig
from data_prep.manifests import CleanCorpus
from data_prep.masks import near_duplicates, shard_pass
from data_prep.masks.manifest import NEAR_DUPLICATE, Mask
from data_prep.masks.near_duplicates import connect
from data_prep.masks.reading import mask_of, masked_counts, read_unmasked
from data_prep.masks.stage import deduplicate
from tests.data_prep.corpora import INLINE, clean_config, cleaned, kept, source, write_lines


def words(seed: int, number: int = 200) -> list[str]:
    chosen = random.Random(seed)
    return ["".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(3, 9))) for _ in range(number)]


def perturbed(text: list[str], share: float, seed: int) -> list[str]:
    """Replace a share of the words."""
    chosen, other = random.Random(seed), words(seed + 10_000, len(text))
    return [other[i] if chosen.random() < share else word for i, word in enumerate(text)]


def shingles(text: str) -> set[str]:
    letters = "".join(filter(str.isalnum, text.casefold()))
    return {letters[i : i + 10] for i in range(len(letters) - 9)}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def corpus_of(directory: Path, name: str, texts: list[str]) -> Artifact[CleanCorpus]:
    path = write_lines(directory / f"{name}.jsonl", [("en", text) for text in texts])
    config = clean_config(source(name, path), held_out={"share": 0}, shard_bytes=20_000)
    return cleaned(directory / f"clean-{name}", config)


def masked(
    directory: Path,
    corpus: Artifact[CleanCorpus],
    *earlier: Artifact[CleanCorpus],
    masks: tuple[Artifact[Mask], ...] = (),
    **near: Any,
) -> Artifact[Mask]:
    config = DeduplicateConfig.model_validate({"near": near})
    given = {"corpus": corpus, "earlier": earlier, "earlier_masks": masks}
    return Artifact(directory, deduplicate(config, **given, out=directory, executor=INLINE))


def remaining(corpus: Artifact[CleanCorpus], mask: Artifact[Mask]) -> list[str]:
    shards = corpus.manifest.shards
    return [d.text for s in shards for d in read_unmasked(corpus.dir / s.path, mask_of(mask, s))]


def planted() -> list[str]:
    """Texts of which a third have copies, from nearly equal to hardly alike."""
    texts = []
    for i in range(120):
        base = words(i)
        texts.append(" ".join(base))
        if i % 3 == 0:
            texts += [" ".join(perturbed(base, share, 1000 + i)) for share in ((0.005, 0.01), (0.04, 0.1))[i % 2]]
    return texts


def test_pairs_are_those_of_brute_force_but_for_those_at_the_bound(tmp_path):
    texts = planted()
    corpus = corpus_of(tmp_path, "web", texts)
    order = [document.text for document in kept(corpus)]
    near = [(i, j) for j in range(len(order)) for i in range(j) if jaccard(order[i], order[j]) >= 0.65]
    certain = {j for i, j in near if jaccard(order[i], order[j]) >= 0.92}
    possible = {j for _, j in near}
    left = remaining(corpus, masked(tmp_path / "mask", corpus, similarity=0.8))
    gone = {place for place, text in enumerate(order) if text not in set(left)}
    assert certain and certain <= gone <= possible


@pytest.mark.parametrize(("keep", "wanted"), [("first", 0), ("longest", 2)])
def test_one_of_a_cluster_is_kept_by_the_rule_and_the_size_of_the_cluster_is_told(tmp_path, keep, wanted):
    base = words(1, 400)
    copies = [" ".join(base), " ".join(base[:-1]), " ".join([*base, "andmore"])]
    corpus = corpus_of(tmp_path, "web", [*copies, " ".join(words(2))])
    mask = masked(tmp_path / "mask", corpus, keep=keep)
    assert sorted(remaining(corpus, mask)) == sorted([copies[wanted], " ".join(words(2))])
    assert mask.manifest.cluster_sizes == (0, 1)
    (file,) = (mask.dir / mask.manifest.clusters).iterdir()
    assert np.load(file).tolist() == [[[d.text for d in kept(corpus)].index(copies[wanted]), 3]]
    (count,) = mask.manifest.counts
    assert count.dropped == {NEAR_DUPLICATE: 2}
    (total,) = masked_counts([corpus.manifest], [mask.manifest])
    assert (total.num_read, total.num_kept, total.dropped[NEAR_DUPLICATE]) == (4, 2, 2)


def test_an_earlier_corpus_keeps_its_own(tmp_path):
    base = words(1)
    web = corpus_of(tmp_path, "web", [" ".join(base)])
    books = corpus_of(tmp_path, "books", [" ".join(perturbed(base, 0.01, 5)), " ".join(words(2))])
    assert remaining(books, masked(tmp_path / "mask", books, web)) == [" ".join(words(2))]
    assert remaining(web, masked(tmp_path / "first", web)) == [" ".join(base)]


def test_what_is_left_out_for_another_reason_stands_for_no_cluster(tmp_path):
    """What an earlier source has word for word goes for that; a near copy of it goes as one of that source's."""
    base, alone = words(1), words(7)
    web = corpus_of(tmp_path, "web", [" ".join(base)])
    books = corpus_of(tmp_path, "books", [" ".join(base), " ".join(perturbed(base, 0.01, 5)), " ".join(alone)])
    mask = masked(tmp_path / "mask", books, web)
    assert remaining(books, mask) == [" ".join(alone)]
    assert mask.manifest.counts[0].dropped == {"in_earlier_source": 1, NEAR_DUPLICATE: 1}


def test_a_document_that_its_own_mask_leaves_out_keeps_no_copy_from_a_later_corpus(tmp_path):
    """The copy of web's text has no item of the test set, so somebody must keep it."""
    item = words(3, 20)
    base = words(1)
    web = corpus_of(tmp_path, "web", [" ".join([*base, *item]), " ".join(words(4))])
    books = corpus_of(tmp_path, "books", [" ".join([*base, *words(9, 3)]), " ".join(words(2))])
    quiz = source("quiz", write_lines(tmp_path / "quiz.jsonl", [("en", " ".join(item))]))
    config = DeduplicateConfig.model_validate({"decontaminate": {"tests": [quiz]}, "near": {}})
    first = Artifact(tmp_path / "first", deduplicate(config, corpus=web, out=tmp_path / "first", executor=INLINE))
    assert first.manifest.counts[0].dropped == {"contaminated": 1}
    whole = [document.text for document in kept(books)]
    assert remaining(books, masked(tmp_path / "blind", books, web, similarity=0.7)) == [" ".join(words(2))]
    assert remaining(books, masked(tmp_path / "mask", books, web, masks=(first,), similarity=0.7)) == whole


def test_partitions_and_tables_change_nothing(tmp_path, monkeypatch):
    corpus = corpus_of(tmp_path, "web", planted())
    whole = masked(tmp_path / "whole", corpus)
    monkeypatch.setattr(near_duplicates, "PARTITION_ROWS", 100)
    monkeypatch.setattr(shard_pass, "TABLE_DOCUMENTS", 7)
    monkeypatch.setattr(shard_pass, "_BATCH_DOCUMENTS", 3)
    cut = masked(tmp_path / "cut", corpus)
    assert cut.manifest == whole.manifest
    files = [sorted(p.relative_to(m.dir) for p in m.dir.rglob("*") if p.is_file()) for m in (whole, cut)]
    assert files[0] == files[1] and len(files[0]) > 1
    assert all((whole.dir / name).read_bytes() == (cut.dir / name).read_bytes() for name in files[0])


@pytest.mark.parametrize("name", ["look_at_shard", "finish_shard"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_run_that_is_killed_goes_on(tmp_path, monkeypatch, name, after):
    from data_prep.masks import stage

    corpus = corpus_of(tmp_path, "web", planted())
    calm = masked(tmp_path / "calm", corpus)
    original, done = getattr(stage, name), list[int]()

    def dying(item: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(0)
        return original(item)

    with monkeypatch.context() as patch:
        patch.setattr(stage, name, dying)
        with pytest.raises(KeyboardInterrupt):
            masked(tmp_path / "out", corpus)
    again = masked(tmp_path / "out", corpus)
    assert again.manifest == calm.manifest
    for path in calm.dir.rglob("*.npy"):
        assert path.read_bytes() == (again.dir / path.relative_to(calm.dir)).read_bytes()


def test_connect_gives_each_node_the_least_that_pairs_connect_it_with():
    chosen = random.Random(1)
    for _ in range(50):
        number = chosen.randint(1, 40)
        pairs = [(chosen.randrange(number), chosen.randrange(number)) for _ in range(chosen.randint(0, 40))]
        wanted = list(range(number))
        while True:
            before = list(wanted)
            for a, b in pairs:
                wanted[a] = wanted[b] = min(wanted[a], wanted[b])
            if wanted == before:
                break
        assert connect(number, np.array(pairs, dtype=np.int64).reshape(-1, 2)).tolist() == wanted


def test_a_chain_of_a_hundred_thousand_is_one_cluster():
    ends = np.arange(100_000)
    pairs = np.column_stack((ends[:-1], ends[1:]))
    np.random.default_rng(1).shuffle(pairs)
    assert not connect(len(ends), pairs).any()


def test_the_fingerprint_of_a_mask_without_near_copies_and_tests_is_what_it_was():
    from pipeline.graph.fingerprint import identity_of

    assert json.loads(json.dumps(identity_of(DeduplicateConfig()))) == {"held_out_similarity": 0.8}
