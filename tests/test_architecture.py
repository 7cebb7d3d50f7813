"""The shape of the code, read from its text: layers, rooms, doors, docstrings, sizes, and what stays unimported."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import GROUPS, SLOW

ROOT = Path(__file__).parents[1]
LAYERS = ["configs", "cluster", "data_prep", "training", "eval", "pipeline"]
FILES = {str(path.relative_to(ROOT)): path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))}
ORDER = {
    "cluster": (
        "devices device_errors machines host rank_output placement members storage executor leases inline "
        "ray launch connect doctor"
    ),
    "data_prep": "manifests sources text cleaning masks tokenizer tokens",
    "training": (
        "accelerator speeds records job network zero data manifests allocation sizing checkpoint hf_files export init "
        "log loop stage conform"
    ),
    "eval": (
        "sizing likelihood statistics manifests families parallel tasks rows workers scoring ledger compare screen "
        "stage on_demand"
    ),
    "pipeline": (
        "store graph estimate export report followers runner stages chain_checks recipe data_checks prepare "
        "layout_checks plan_lines unfinished run runs cli"
    ),
}
"""The rooms of a package, folders and files, from the lowest: each imports only from those before it."""

DOORS = {
    "ray": (
        "cluster/ray/",
        "cluster/launch/ray_jobs.py",
        "cluster/doctor/nodes.py",
        "cluster/doctor/ray_job.py",
        "cluster/doctor/ray_versions.py",
    ),
    "deepspeed": ("training/zero/",),
    "sentencepiece": ("data_prep/tokenizer/",),
    "tokenizers": ("data_prep/tokenizer/",),
    "lm_eval": ("eval/tasks/harness.py",),
    "wandb": ("training/log/wandb_log.py",),
    "datasets": ("data_prep/sources/hugging_face.py", "eval/tasks/harness.py"),
    "yaml": ("configs/load.py",),
    "fsspec": ("cluster/storage/remote.py", "data_prep/sources/remote_files.py"),
    "jinja2": ("cluster/launch/kube_manifest.py", "pipeline/report/page.py"),
    "typer": ("pipeline/cli/",),
    "fasttext": ("data_prep/text/fasttext_model.py",),
    "pycld2": ("data_prep/text/language_id.py",),
    "py3langid": ("data_prep/text/language_id.py",),
    "fontTools": ("data_prep/text/scripts.py",),
    "phonenumbers": ("data_prep/text/personal_data.py",),
    "stdnum": ("data_prep/text/personal_data.py",),
}
"""The folder, or the files, that alone import a heavy library."""

HEAVY = [
    "torch",
    "ray",
    "deepspeed",
    "transformers",
    "datasets",
    "wandb",
    "lm_eval",
    "sentencepiece",
    "tokenizers",
    "scipy",
]
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_FILES_IN_A_FOLDER = 320, 50, 14
LONG_FILES: dict[str, str] = {
    "training/loop/trainer.py": "one rank's loop, with all that decides when it saves, rolls back and ends",
}
"""Files that may be longer, each with the reason."""

CODE = sorted(name for name in FILES if not name.endswith("__init__.py"))
TREES = {name: ast.parse(FILES[name].read_text(encoding="utf-8")) for name in CODE}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def imported(node: ast.AST) -> list[str]:
    """Dotted names that an import statement may load: `from a import b` may mean the module a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide where a name comes from"
        return [name for alias in node.names for name in (str(node.module), f"{node.module}.{alias.name}")]
    return []


def top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: not the bodies of functions, nor what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, Function | ast.Lambda):
            yield from top_level(node)


def module_of(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


def undocumented(tree: ast.Module) -> list[str]:
    """Public classes and functions of a module without a docstring."""
    named = [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and node.name[0] != "_"]
    return [node.name for node in named if ast.get_docstring(node) is None]


def test_reading_imports_sees_every_form():
    guarded = "if TYPE_CHECKING:\n    import z\n"
    tree = ast.parse(f"import a.b\n{guarded}def f():\n    from c import d\ntry:\n    from e.f import g\nfinally: 0")
    assert {n for node in ast.walk(tree) for n in imported(node)} == {"a.b", "z", "c", "c.d", "e.f", "e.f.g"}
    assert {n for node in top_level(tree) for n in imported(node)} == {"a.b", "e.f", "e.f.g"}


@pytest.mark.parametrize("name", CODE)
def test_a_module_imports_only_packages_below_its_own(name):
    layer = name.split("/")[0]
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "tests", "benchmarks"}
    used = {module.split(".")[0] for node in ast.walk(TREES[name]) for module in imported(node)}
    assert not above & used


def room_of(name: str) -> str:
    """The folder or file, directly in its package, that a module is in."""
    return name.split("/")[1].removesuffix(".py")


@pytest.mark.parametrize("package", ORDER)
def test_the_rooms_of_a_package_have_an_order(package):
    order = ORDER[package].split()
    modules = {module_of(name): name for name in CODE if name.startswith(f"{package}/")}
    assert {room_of(name) for name in modules.values()} == set(order), "name every folder and file of the package"
    upwards = {
        (name, modules[used])
        for name in modules.values()
        for node in ast.walk(TREES[name])
        for used in imported(node)
        if used in modules and order.index(room_of(modules[used])) > order.index(room_of(name))
    }
    assert upwards == set()


def test_modules_import_each_other_in_no_circle():
    modules = {module_of(name): name for name in CODE}
    graph = {
        module: {used for node in top_level(TREES[name]) for used in imported(node) if used in modules}
        for module, name in modules.items()
    }
    assert any(graph.values())
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("library", DOORS)
def test_a_heavy_library_is_imported_behind_its_door_only(library):
    users = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if library in [module.split(".")[0] for module in imported(node)]
    }
    assert [name for name in users if not name.startswith(DOORS[library])] == []
    assert [door for door in DOORS[library] if not any(name.startswith(door) for name in users)] == [], "an unused door"


@pytest.mark.parametrize("module", ["pipeline.stages", "pipeline.cli.app", "pipeline.prepare"])
def test_the_command_loads_nothing_heavy_before_it_is_needed(module):
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert module in loaded
    assert not set(HEAVY) & set(loaded)


def test_init_files_are_empty():
    assert [name for name, path in FILES.items() if path.name == "__init__.py" and path.read_bytes()] == []


def test_tests_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("name", CODE)
def test_a_module_and_what_is_public_in_it_say_what_they_are(name):
    assert ast.get_docstring(TREES[name])
    assert undocumented(TREES[name]) == []
    assert re.findall(r'^\s*"""(?:Of|As|Both of) .*', FILES[name].read_text(encoding="utf-8"), re.M) == []


@pytest.mark.parametrize("name", CODE)
def test_files_and_functions_stay_short(name):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES or LONG_FILES.get(name), "split it by idea, or give the reason in LONG_FILES"
    assert name not in LONG_FILES or lines > MAX_FILE_LINES, "it needs no reason any more"
    sizes = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in ast.walk(TREES[name]) if isinstance(f, Function)}
    assert {function: lines for function, lines in sizes.items() if lines > MAX_FUNCTION_LINES} == {}


def test_folders_stay_small():
    folders = Counter(str(Path(name).parent) for name in CODE)
    assert {folder: count for folder, count in folders.items() if count > MAX_FILES_IN_A_FOLDER} == {}


def test_nothing_in_cluster_itself_is_a_script():
    """A script run by its path from cluster/ would import cluster/ray in the place of the library."""
    scripts = [name for name in CODE if Path(name).parent == Path("cluster") and "__main__" in FILES[name].read_text()]
    assert scripts == []


def test_files_that_share_a_process_are_there():
    """A file that was renamed would be none of the group, and start a Ray of its own, without a word."""
    named = {file for files in GROUPS.values() for file in files} | set(SLOW)
    assert [file for file in sorted(named) if not (ROOT / file).is_file()] == []
