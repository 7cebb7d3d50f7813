"""What transformers makes of exported directories, in the process of whatever version runs this file.

As a program: `python read_export.py ROOT`, where ROOT holds directories with `model/` and `texts.json`, of a list of
texts. It prints a line of JSON for each, with its name.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NUM_NEW = 3


def read_export(directory: Path) -> dict[str, Any]:
    """Load `model/`, tokenize the texts, score and continue the first."""
    texts = json.loads((directory / "texts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    # Of some implementations of attention the two versions take another one for gemma2, whose scores are capped.
    model = AutoModelForCausalLM.from_pretrained(
        directory / "model", attn_implementation="eager", torch_dtype=torch.float32
    )
    flagged = AutoTokenizer.from_pretrained(directory / "model", split_special_tokens=True)
    ids = flagged(texts, add_special_tokens=False, verbose=False)["input_ids"]
    forward, fed = model.forward, []

    def note_length(*args: Any, **kwargs: Any) -> Any:
        fed.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    note_length.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    model.forward = note_length
    first = torch.tensor([ids[0]])
    with torch.inference_mode():
        logits = model(input_ids=first).logits[0].tolist()
        fed.clear()
        prompt = tokenizer(texts[0], return_tensors="pt")
        model.generate(**prompt, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False)
    return {
        "name": directory.name,
        "class": type(tokenizer).__name__,
        "ids": ids,
        "ids_by_default": tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"],
        "ids_of_a_prompt": tokenizer(texts[0])["input_ids"],
        "decoded": [tokenizer.decode(one) for one in ids],
        "eos": tokenizer.eos_token_id,
        "bos": tokenizer.bos_token_id,
        "max_length": tokenizer.model_max_length,
        "logits": logits,
        "fed": fed,
        "use_cache": model.generation_config.use_cache,
        "rows": model.get_input_embeddings().weight.shape[0],
    }


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).iterdir()):
        print(json.dumps(read_export(path)))
