"""Data of the tasks of the suites that ship, made up: with the columns of the real data, and no word of anybody's."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.tasks import SUITES
from eval.tasks.suites import read_suite
from tests.eval.tasks.made_up import Words

CODES = {
    "multiblimp": {"rus": "Cyrl", "hin": "Deva"},
    "xstory_cloze": {"ar": "Arab", "zh": "Hans"},
    "xcopa": {"sw": "Latn", "th": "Thai"},
    "belebele": {"swh_Latn": "Latn", "amh_Ethi": "Ethi"},
    "m_hellaswag": {"ru": "Cyrl"},
    "global_mmlu_lite": {"hi": "Deva"},
    "include_base_44": {"arabic": "Arab"},
    "mgsm": {"zh": "Hans"},
    "flores": {"rus_Cyrl": "Cyrl"},
    "crows_pairs": {"french": "Latn"},
    "truthfulqa_multi": {"es": "Latn"},
}
"""Languages that tasks with a placeholder are written in, by the folder of their data, and scripts of these."""

UNKNOWN = ("Unknown", "Cannot answer", "Not enough info", "Can't be determined")
"""What BBQ's third answer says, which lm-eval knows by these words."""

Row = dict[str, Any]


def multiblimp(words: Words, _: int) -> Row:
    stem, ending = words.words(3, 6), words.words(1, 1)
    right, wrong = words.draw.sample(("", ending[:1], ending[:2], ending), 2)
    rest = words.words(1, 3)
    return {"sen": f"{stem}{right} {rest}.", "wrong_sen": f"{stem}{wrong} {rest}.", "verb": stem, "lang": "made"}


def xstory_cloze(words: Words, number: int) -> Row:
    right = words.draw.randrange(2)
    first, second = words.answers(2)
    parts = {f"input_sentence_{place}": words.sentence() for place in range(1, 5)}
    quiz = {"sentence_quiz1": f"{first}.", "sentence_quiz2": f"{second}.", "answer_right_ending": right + 1}
    return {"story_id": str(number), **parts, **quiz}


def xcopa(words: Words, number: int) -> Row:
    right = words.draw.randrange(2)
    first, second = words.answers(2)
    question = words.draw.choice(("cause", "effect"))
    return {
        "premise": words.sentence(),
        "choice1": f"{first.capitalize()}.",
        "choice2": f"{second.capitalize()}.",
        "question": question,
        "label": right,
        "idx": number,
        "changed": False,
    }


def belebele(words: Words, number: int) -> Row:
    right = words.draw.randrange(4)
    answers = {f"mc_answer{place}": text for place, text in enumerate(words.answers(4), 1)}
    passage = Words(words.script, random.Random(f"{words.script} {number // 2}")).sentence(8, 14)
    return {
        "link": f"made/{number // 2}",
        "question_number": 1 + number % 2,
        "flores_passage": passage,
        "question": words.sentence(),
        **answers,
        "correct_answer_num": str(right + 1),
        "dialect": "made",
        "ds": "2023-05-03",
    }


def hellaswag(words: Words, number: int) -> Row:
    right = words.draw.randrange(4)
    first, second = words.sentence(), words.words(1, 3)
    return {
        "ind": number,
        "activity_label": words.words(1, 2),
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}",
        "endings": [f"{text}. [title] {words.words(1, 1)}." for text in words.answers(4)],
        "source_id": f"made~{number}",
        "split": "val",
        "split_type": "indomain",
        "label": str(right),
    }


def sciq(words: Words, _: int) -> Row:
    *wrong, right = words.answers(4)
    distractors = {f"distractor{place}": text for place, text in enumerate(wrong, 1)}
    support = words.draw.choice(("", words.sentence(6, 10)))
    return {"question": words.sentence(), **distractors, "correct_answer": right, "support": support}


def arc(words: Words, number: int) -> Row:
    count = words.draw.choice((3, 4, 4, 4, 5))
    right = words.draw.randrange(count)
    labels = [*words.draw.choice(("ABCDE", "12345"))][:count]
    choices = {"text": words.answers(count), "label": labels}
    return {"id": f"made_{number}", "question": words.sentence(), "choices": choices, "answerKey": labels[right]}


def lettered(words: Words, _: int) -> Row:
    """Make a question of Global-MMLU or INCLUDE, whose answers have letters."""
    right = words.draw.randrange(4)
    options = {f"option_{letter}": text for letter, text in zip("abcd", words.answers(4), strict=True)}
    return {"question": words.sentence(), **options, "answer": "ABCD"[right], "subject": "made"}


def include(words: Words, number: int) -> Row:
    row = lettered(words, number)
    return row | {"language": "made", "domain": "made", "answer": "ABCD".index(row["answer"])}


def wmdp(words: Words, _: int) -> Row:
    right = words.draw.randrange(4)
    return {"question": words.sentence(), "choices": words.answers(4), "answer": right}


def mgsm(words: Words, _: int) -> Row:
    return {"question": words.sentence(), "answer_number": str(words.draw.randrange(100))}


def gsm8k(words: Words, _: int) -> Row:
    number = words.draw.randrange(100)
    return {"question": words.sentence(), "answer": f"{words.sentence()} <<1+1=2>>\n#### {number}"}


def flores(words: Words, number: int) -> Row:
    other = Words("Latn", words.draw)
    return {"id": number, "sentence_eng_Latn": other.sentence(), "sentence_rus_Cyrl": words.sentence()}


def gpqa(words: Words, number: int) -> Row:
    right, *wrong = words.answers(4)
    others = {f"Incorrect Answer {place}": text for place, text in enumerate(wrong, 1)}
    return {"Record ID": f"made{number}", "Question": words.sentence(), "Correct Answer": right, **others}


def mmlu_pro(words: Words, number: int) -> Row:
    right = words.draw.randrange(10)
    letter = "ABCDEFGHIJ"[right]
    return {
        "question_id": number,
        "question": words.sentence(),
        "options": words.answers(10),
        "answer": letter,
        "answer_index": right,
        "cot_content": f"A: Let's think step by step. {words.sentence()} The answer is ({letter}).",
        "category": ("biology", "chemistry", "physics")[number % 3],
        "src": "made",
    }


def scitldr(words: Words, number: int) -> Row:
    source = [words.sentence() for _ in range(4)]
    return {"source": source, "source_labels": [0, 0, 1, 0], "paper_id": str(number), "target": [words.sentence()]}


def toxigen(words: Words, _: int) -> Row:
    """Make a statement; two of five are hateful, about as in the real data."""
    toxicity = 4.0 if words.draw.random() < 0.4 else 1.0
    return {
        "text": words.sentence(),
        "target_group": "made",
        "toxicity_ai": toxicity,
        "toxicity_human": toxicity,
        "actual_method": "top-k",
    }


def bbq(words: Words, number: int) -> Row:
    """Make a question; in half of them the context does not tell, and the right answer is that nobody knows."""
    answers = [f"The {words.words(1, 2)}", f"The {words.words(1, 2)}", words.draw.choice(UNKNOWN)]
    groups = [[answers[0], "old"], [answers[1], "young"], [answers[2], "unknown"]]
    order = words.draw.sample(range(3), 3)
    is_ambiguous = bool(number % 2)
    right = 2 if is_ambiguous else words.draw.randrange(2)
    return {
        "example_id": number,
        "question_index": str(number // 4),
        "question_polarity": words.draw.choice(("neg", "nonneg")),
        "context_condition": "ambig" if is_ambiguous else "disambig",
        "category": "Age",
        "answer_info": {f"ans{place}": groups[which] for place, which in enumerate(order)},
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["old"], "version": "a", "source": ""},
        "context": words.sentence(),
        "question": words.sentence(),
        **{f"ans{place}": answers[which] for place, which in enumerate(order)},
        "label": order.index(right),
    }


def crows_pairs(words: Words, number: int) -> Row:
    """Make two sentences that differ in the group that they are of."""
    before, after = words.words(2, 4), words.words(2, 4)
    more, less = words.words(1, 2), words.words(1, 2)
    return {
        "id": number,
        "sent_more": f"{before} {more} {after}.",
        "sent_less": f"{before} {less} {after}.",
        "stereo_antistereo": "stereo",
        "bias_type": "age",
    }


def truthfulqa(words: Words, _: int) -> Row:
    """Make a question whose first answer is right, and often a word longer than the others: truth takes more words."""
    others = [f"{words.words(4, 6)}." for _ in range(words.draw.randint(1, 6))]
    choices = [f"{words.words(5, 8)}.", *others]
    targets = {"choices": choices, "labels": [1] + [0] * (len(choices) - 1)}
    return {"question": words.sentence(), "mc1_targets": targets, "mc2_targets": targets, "lang": "made"}


ROWS: dict[str, Callable[[Words, int], Row]] = {
    "multiblimp": multiblimp,
    "xstory_cloze": xstory_cloze,
    "xcopa": xcopa,
    "belebele": belebele,
    "m_hellaswag": hellaswag,
    "hellaswag": hellaswag,
    "sciq": sciq,
    "ai2_arc": arc,
    "global_mmlu_lite": lettered,
    "include_base_44": include,
    "mgsm": mgsm,
    "flores": flores,
    "gpqa": gpqa,
    "mmlu_pro": mmlu_pro,
    "gsm8k": gsm8k,
    "scitldr": scitldr,
    "toxigen": toxigen,
    "bbq": bbq,
    "crows_pairs": crows_pairs,
    "truthfulqa_multi": truthfulqa,
    "wmdp": wmdp,
}


def write_data(directory: Path, *, seed: int, num_questions: int) -> None:
    """Write the files of all tasks of all shipped suites, each task in its CODES, with so many rows in each file."""
    for suite in SUITES:
        for entry in read_suite(suite).tasks:
            for stem in entry.files.values():
                folder = stem.partition("/")[0]
                for code, script in CODES.get(folder, {"": "Latn"}).items():
                    made = rows(stem, script, code, seed, num_questions)
                    write_rows(directory / filled(stem, code), made, entry.columns)


def filled(stem: str, code: str) -> str:
    """Return the name of a file in a language."""
    for placeholder in ("{alpha3}", "{alpha2}", "{iso}", "{name}"):
        stem = stem.replace(placeholder, code)
    return stem.replace("{Name}", code.capitalize())


def rows(stem: str, script: str, code: str, seed: int, number: int) -> list[Row]:
    """Return the rows of a file."""
    words = Words(script, random.Random(f"{stem} {code} {seed}"))
    return [ROWS[stem.partition("/")[0]](words, place) for place in range(number)]


def write_rows(stem: Path, given: Sequence[Row], columns: Sequence[str]) -> None:
    """Write JSON lines, or a table without a line of names where a suite gives the names."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if columns:
        text = "".join("\t".join(str(value) for value in row.values()) + "\n" for row in given)
        stem.with_name(f"{stem.name}.tsv").write_text(text, encoding="utf-8")
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given)
        stem.with_name(f"{stem.name}.jsonl").write_text(text, encoding="utf-8")
