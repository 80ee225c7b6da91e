"""The layer contract of CONTRIBUTING.md, read off the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import intraformer_fast

PACKAGE = Path(intraformer_fast.__file__).parent

# Who may import whom, lowest first; a module may import its own layer and those below it.
LAYERS = [
    {"errors", "files", "gpus", "native", "presets", "distributed"},
    {"cost", "data", "installation"},
    {"shards"},
    {"reference", "kernels"},
    {"ops"},
    {"functional"},
    {"nn", "graph", "metrics"},
    {"precision", "acceleration", "explanation"},
    {"checkpoint", "clusters"},
    {"inference"},
    {"streaming"},
    {"monitoring"},
    {"training", "selection"},
    {"pipeline", "charts", "page"},
    {"estimator"},
    {"bench", "report"},
    {"profiling"},
    {"demo"},
    {"cli_options"},
    {"cli_bench"},
    {"cli"},
]
HEAVY = ("faiss", "triton", "sklearn", "sknetwork", "matplotlib", "pyarrow", "infomap", "PIL")


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).with_suffix("").parts


def layer_of(name):
    return next((i for i, layer in enumerate(LAYERS) if name in layer), None)


def imported(path):
    """Rooms of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (*path.relative_to(PACKAGE.parent).parent.parts,)[
                : 1 + len(path.relative_to(PACKAGE).parts) - node.level
            ]
            names = [".".join((*base, *filter(None, [node.module]), alias.name)) for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("intraformer_fast."):
                yield name.split(".")[1]


@pytest.mark.parametrize(("path", "parts"), list(modules()), ids=lambda v: "/".join(v) if isinstance(v, tuple) else "")
def test_no_module_imports_upwards(path, parts):
    own = layer_of(parts[0])
    if parts == ("__init__",):
        return
    assert own is not None, f"{parts[0]} stands in no layer: name it in LAYERS"
    for room in imported(path):
        other = layer_of(room)
        if other is not None:
            assert other <= own, f"{'/'.join(parts)} imports {room}, which stands above it"


def test_reference_imports_torch_alone():
    for path in (PACKAGE / "reference").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                root = name.split(".")[0]
                assert (
                    root == "torch" or root in sys.stdlib_module_names or name.startswith("intraformer_fast.reference")
                )


def test_importing_the_package_imports_nothing_optional():
    names = f"[getattr(ifast, name) for name in ifast.__all__ if name != {'IntraformerClusterer'!r}]"
    code = f"import sys, intraformer_fast as ifast; {names}; print([m for m in {HEAVY} if m in sys.modules])"
    # torch itself imports triton where it is installed, which is not ours to judge.
    baseline = f"import sys, torch; print([m for m in {HEAVY} if m in sys.modules])"
    found, before = (
        ast.literal_eval(subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout)
        for c in (code, baseline)
    )
    assert set(found) <= set(before)


def test_the_cost_model_needs_no_torch():
    code = "import sys, intraformer_fast.cost; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_importing_the_package_does_not_initialize_cuda():
    code = "import intraformer_fast.nn, torch; print(torch.cuda.is_initialized())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
