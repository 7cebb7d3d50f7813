"""The files of an exported Hugging Face directory beside the weights, so that transformers 4 and 5 read them alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.host.files import write_text
from configs.base import Artifact
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.certificate import find_differences
from data_prep.tokenizer.stage import HUGGING_FACE

OLDEST_TRANSFORMERS = "4.57"
"""The oldest version that gives the ids and logits of a directory: 4.51 gave others with YaRN and for gemma3_text."""

READ_BY_OLDEST = frozenset(
    {
        "deepseek_v2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "phi",
        "qwen2",
        "qwen3",
        "qwen3_moe",
    }
)
"""Model types that tests compare in that version."""

_OLD_ROPE_KEYS = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
"""By model type, what transformers 4 calls `rope_theta` and `partial_rotary_factor`, where it has other names."""

_OLD_ROPE_BASES = {"modernbert-decoder": ("global_rope_theta", "local_rope_theta")}
"""By model type, its names for the bases of global and sliding attention; elsewhere they are `_ROPE_BASES`."""

_ROPE_BASES = ("rope_theta", "rope_local_base_freq")
_GLOBAL, _SLIDING = "full_attention", "sliding_attention"

_CLASS_FILE = "tokenizer_class.py"
_CLASS_CODE = '''"""Read only with trust_remote_code=True, and needed for nothing.

That tokenizer_config.json names it makes AutoTokenizer of transformers 5 take the class that is named there, too,
instead of the architecture's own, which would make another tokenizer.
"""

from transformers import PreTrainedTokenizerFast


class VerbatimTokenizer(PreTrainedTokenizerFast):
    """Takes tokenizer.json as it is."""
'''


def write_config(directory: Path, *, names: Mapping[str, str]) -> str:
    """Add to config.json, as transformers 5 writes it, the keys that transformers 4 reads instead of its new ones.

    `names` is the configuration's `attribute_map`: other name -> name in the file. Returns the oldest version of
    transformers that reads the directory.
    """
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    old = {name: config[new] for name, new in names.items() if name.endswith("_experts") and new in config}
    old |= {"torch_dtype": config["dtype"]} if "dtype" in config else {}
    write_text(path, json.dumps(old_rope_keys(config) | old | config, indent=2, sort_keys=True) + "\n")
    return OLDEST_TRANSFORMERS if config["model_type"] in READ_BY_OLDEST else str(config["transformers_version"])


def old_rope_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of rotary positions under the names of transformers 4, which ignores `rope_parameters`.

    It would take the architecture's default base for another one without a word.
    """
    found, kind = config.get("rope_parameters"), str(config.get("model_type"))
    if not found:
        return {}
    base, local = _OLD_ROPE_BASES.get(kind, _ROPE_BASES)
    if _GLOBAL not in found and _SLIDING not in found:
        base, partial = _OLD_ROPE_KEYS.get(kind, (base, "partial_rotary_factor"))
        return _old_keys(found, base=base, partial=partial)
    keys = _old_keys(found.get(_GLOBAL, {}), base=base, partial="partial_rotary_factor")
    return keys | ({local: found[_SLIDING]["rope_theta"]} if "rope_theta" in found.get(_SLIDING, {}) else {})


def _old_keys(rope: Mapping[str, Any], *, base: str, partial: str) -> dict[str, Any]:
    names = {"rope_theta": base, "partial_rotary_factor": partial}
    rest = {key: value for key, value in rope.items() if key not in names}
    scaling = rest if rest.get("rope_type", "default") != "default" else None
    return {names[key]: rope[key] for key in names if key in rope} | {"rope_scaling": scaling}


def write_tokenizer(tokenizer: Artifact[TrainedTokenizer], directory: Path, *, max_length: int | None) -> None:
    """Write the tokenizer's files beside config.json, so that AutoTokenizer takes tokenizer.json as it is.

    `max_length` is the model's context in tokens; None if it has no limit.

    Transformers 5 makes the tokenizer of some architectures (qwen2) anew by its own class, whatever class
    tokenizer_config.json names, unless the file names code, too, which it does not load without being told.
    """
    for file in (tokenizer.dir / HUGGING_FACE).iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {} if max_length is None else {"model_max_length": max_length}
    # Else transformers 4 also returns token_type_ids, which no decoder takes.
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    write_text(path, json.dumps(settings, indent=2, ensure_ascii=False))
    if find_differences(directory, tokenizer):
        name = f"{_CLASS_FILE.removesuffix('.py')}.VerbatimTokenizer"
        write_text(directory / _CLASS_FILE, _CLASS_CODE)
        write_text(path, json.dumps(settings | {"auto_map": {"AutoTokenizer": [name, name]}}, indent=2))
        if wrong := find_differences(directory, tokenizer):
            raise RuntimeError(f"AutoTokenizer reads {directory} otherwise than {tokenizer.dir}: {wrong[:3]!r}")
