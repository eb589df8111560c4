"""The project as a whole: layers, module sizes, pinned versions, README's commands."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EDGES = {"ray", "cluster", "tune", "serve", "studies", "bench"}
PACKAGES = ["cllm", "cluster", "tune", "serve", "studies", "bench"]
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def by_name(paths):
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def tree(path):
    return ast.parse(path.read_text("utf-8"))


def imported(path):
    """Top-level names of what a module imports, inside functions too."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    "path", by_name(path for path in SOURCES if path.is_relative_to(ROOT / "cllm"))
)
def test_library_imports_no_edge(path):
    if path == ROOT / "cllm" / "cli.py":
        outer = {
            alias.name.split(".")[0]
            for node in tree(path).body
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in tree(path).body
            if isinstance(node, ast.ImportFrom)
        }
        assert not outer & EDGES, "import it inside the command that needs it"
    else:
        assert not imported(path) & EDGES


@pytest.mark.parametrize("path", by_name(SOURCES))
def test_module_is_short_and_introduces_itself(path):
    docstring = ast.get_docstring(tree(path))
    assert docstring, "no module docstring"
    assert len(docstring.splitlines()) <= 8
    assert len(path.read_text("utf-8").splitlines()) <= 400


def loads_pickle(node):
    """Whether a call or import would unpickle: pickle, joblib, torch.load, numpy's flag."""
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in {"pickle", "joblib"} for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in {"pickle", "joblib"}
    if not isinstance(node, ast.Call):
        return False
    allowed = {word.arg: ast.unparse(word.value) for word in node.keywords}
    return ast.unparse(node.func) == "torch.load" or allowed.get("allow_pickle", "False") != "False"


@pytest.mark.parametrize("path", by_name(SOURCES))
def test_nothing_loads_a_pickle(path):
    lines = [node.lineno for node in ast.walk(tree(path)) if loads_pickle(node)]
    assert not lines, f"lines {lines}"


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in found}


def requirements():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(line for extra in extras for line in extra)]


@pytest.mark.parametrize("line", requirements())
def test_every_requirement_is_pinned_within_its_bounds(line):
    need = Requirement(line)
    assert need.specifier.contains(pins()[canonical(need.name)])


def test_pins_name_no_machine():
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


def test_makefile_installs_the_pinned_torch():
    version = re.search(r"torch==([0-9.]+)", (ROOT / "Makefile").read_text("utf-8"))
    assert version
    assert version[1] == pins()["torch"]


def test_make_help_lists_at_most_twelve_targets():
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    )
    names = [line.split()[1] for line in shown.stdout.splitlines()]
    assert {"setup", "demo", "check", "test", "test-full", "lint", "bench", "help"} <= set(names)
    assert len(names) <= 12


class Example(NamedTuple):
    """A fenced block of README that says it is tested: `<!-- test -->`, `<!-- test: slow -->`."""

    script: str
    tier: str
    line: int


BLOCK = re.compile(
    r"<!-- test(?:: (?P<tier>\w+))? -->\s*\n```(?:console|sh|bash)\n(?P<body>.*?)^```", re.M | re.S
)


def commands(body):
    """The lines to run: those behind `$ ` with their continuations, or all if none has it."""
    lines = body.splitlines()
    if not any(line.startswith("$ ") for line in lines):
        return body
    chosen, going_on = [], False
    for line in lines:
        if line.startswith("$ ") or going_on:
            chosen.append(line.removeprefix("$ ").removeprefix("> "))
            going_on = line.endswith("\\")
    return "\n".join(chosen)


def examples(text):
    return [
        Example(commands(m["body"]), m["tier"] or "chain", text[: m.start()].count("\n") + 1)
        for m in BLOCK.finditer(text)
    ]


def readme_examples():
    found = examples((ROOT / "README.md").read_text("utf-8"))
    return [
        pytest.param(one, id=f"line{one.line}", marks=getattr(pytest.mark, one.tier))
        for one in found
    ]


def test_readme_has_tested_examples():
    assert readme_examples()


@pytest.mark.parametrize("example", readme_examples())
def test_readme_example_runs(example, tmp_path):
    """Each block runs as one script in an empty folder, with the checkout's commands first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{example.script}\n{done.stderr[-2000:]}"


def test_examples_are_read_as_written():
    text = (
        "a\n<!-- test -->\n```console\n$ echo a \\\n> b\na b\n```\n"
        "```console\n$ false\n```\n<!-- test: slow -->\n\n```sh\necho c\n```\n"
    )
    first, second = examples(text)
    assert first == Example("echo a \\\nb", "chain", 2)
    assert (second.script, second.tier) == ("echo c\n", "slow")
