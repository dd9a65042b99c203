"""The house's rules: where imports may go, how large things may grow, what they may be called."""

import ast
from collections import Counter, defaultdict

import pytest

from tests.package_source import (
    MODULES,
    NAMES,
    PACKAGE,
    dotted,
    functions,
    identifiers,
    imported_modules,
    imports,
    is_command,
    is_property,
    parameters,
    public_names,
    relative,
    tree,
    words,
)

ORDER = [
    "runtime",
    "data",
    "metrics",
    "backbones",
    "features",
    "planning",
    "artifacts",
    "inference",
    "training",
    "runs",
    "recipes",
    "cli",
]

MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
MAX_MODULE_LINES = 300

# Functions that may be longer or take more, each with the reason: at most three and four.
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS: dict[str, str] = {}

# The package's former private language, and the field's word for each.
PRIVATE_WORDS = {
    "anew": "new, again",
    "answer": "prediction, logits",
    "answers": "predictions, logits",
    "asked": "options, requested",
    "codes": "features",
    "fair": "balanced",
    "heard": "received",
    "lanes": "parallel",
    "lean": "minimal",
    "least": "min",
    "look": "stage_features",
    "mine": "shard, own",
    "novelty": "ood",
    "remembered": "cached",
    "room": "free memory, capacity",
    "said": "text, reported",
    "settle": "resolve",
    "shelf": "table",
    "tap": "stage_output",
    "taps": "stage_outputs",
    "told": "text, message, broadcast",
    "whole": "full, all",
    "wish": "overrides",
}
# Words that are private only where they stand alone.
PRIVATE_NAMES = {"level": "stage, depth", "numbers": "precision"}
BRITISH = (
    "artefact",
    "behaviour",
    "centre",
    "colour",
    "favour",
    "grey",
    "initialis",
    "licence",
    "neighbour",
    "normalis",
    "optimis",
    "organis",
    "recognis",
    "serialis",
    "standardis",
    "summaris",
)
AMERICAN = {"optimistic"}  # what looks British
# First words of docstrings that do not name an action. Plurals and participles are found by ending.
NON_VERBS = {
    *("A", "Accuracy", "After", "All", "An", "And", "As", "At", "CPU", "Class", "Data", "Each"),
    *("Every", "For", "From", "How", "If", "In", "It", "Its", "Left", "Like", "Logits", "Many"),
    *("Mean", "More", "None", "Nothing", "Of", "On", "Once", "One", "Only", "Parameter", "Plain"),
    *("Prefix", "Same", "Soft", "Some", "Something", "That", "The", "Their", "There", "These"),
    *("This", "Those", "Three", "To", "Two", "Under", "Up", "What", "When", "Where", "Whether"),
    *("Which", "Who", "Whose", "Why", "With", "Without"),
}
VERBS_IN_ED = ("Embed", "Feed", "Seed", "Shed", "Speed")


def begins_with_verb(text):
    """Tell whether a docstring may begin with a verb in the imperative, by its first word."""
    first = text.split()[0].strip(",.:;")
    plural = first.endswith("s") and not first.endswith("ss")
    participle = first.endswith("ed") and first not in VERBS_IN_ED
    return first[:1].isupper() and first not in NON_VERBS and not plural and not participle


def layer(name):
    """Return the place of a module's folder in the order; -1 for a module below all folders."""
    parts = name.split(".")
    if parts[1:2] == ["transfer"]:
        return len(ORDER)  # a shim for scripts of earlier versions, which nothing here imports
    return ORDER.index(parts[1]) if parts[1:] and parts[1] in ORDER else -1


def test_every_folder_has_its_place_in_the_order():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders - {"transfer"} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_one_way(path):
    if relative(path) in ("__init__.py", "__main__.py"):
        return  # the package's face and its door name everything
    for name in imported_modules(path):
        assert name in NAMES, f"{relative(path)} imports {name}, which does not exist"
        assert name != "tlcli", f"{relative(path)} imports the package's face"
        assert layer(name) <= layer(dotted(path)), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_typer_and_rich_are_imported_by_the_command_line_alone(path):
    if path.relative_to(PACKAGE).parts[0] != "cli":
        assert not {"typer", "rich"} & {name.split(".")[0] for name in imports(path)}


def test_no_modules_import_each_other_in_a_circle():
    graph = {dotted(path): set(imported_modules(path)) - {dotted(path)} for path in MODULES}
    graph["tlcli"] = set()
    done, trail = set(), []

    def visit(name):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        trail.append(name)
        for other in sorted(graph[name]):
            visit(other)
        done.add(trail.pop())

    for name in sorted(graph):
        visit(name)


def test_no_folder_holds_too_much():
    lines, modules = Counter(), Counter()
    for path in MODULES:
        parts = path.relative_to(PACKAGE).parts
        lines[parts[0] if len(parts) > 1 else ""] += len(path.read_text().splitlines())
        modules[path.parent] += path.name != "__init__.py"
    total = sum(lines.values())
    assert {k: n for k, n in lines.items() if n > 0.2 * total} == {}
    assert {k: n for k, n in modules.items() if n > 20} == {}


def test_modules_are_read_in_one_sitting():
    lines = {relative(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: n for name, n in lines.items() if n > MAX_MODULE_LINES} == {}


def test_functions_are_short_and_take_few_parameters():
    lines, counts = {}, {}
    for path in MODULES:
        for function in functions(path):
            if not is_command(path, function):
                name = f"{relative(path)}: {function.name}"
                lines[name] = function.end_lineno - function.lineno + 1
                counts[name] = parameters(function)
    assert {n for n, k in lines.items() if k > MAX_FUNCTION_LINES} == LONG_FUNCTIONS.keys()
    assert {n for n, k in counts.items() if k > MAX_PARAMETERS} == MANY_PARAMETERS.keys()
    assert len(LONG_FUNCTIONS) <= 3
    assert len(MANY_PARAMETERS) <= 4


@pytest.mark.parametrize("kind", ["definition", "constant"])
def test_one_name_means_one_thing(kind):
    found = defaultdict(set)
    for path in MODULES:
        for what, name in public_names(path):
            if what == kind and not (name == "command" and relative(path).startswith("cli/")):
                found[name].add(relative(path))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_names_are_the_fields_words_in_american_spelling(path):
    names = identifiers(path) - AMERICAN
    private = {name: PRIVATE_WORDS.keys() & words(name) for name in names}
    assert {name: found for name, found in private.items() if found} == {}
    assert {name for name in names if name.strip("_") in PRIVATE_NAMES} == set()
    assert {name for name in names if any(british in name.lower() for british in BRITISH)} == set()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_what_it_holds(path):
    text = ast.get_docstring(tree(path))
    assert text
    assert not text.startswith("TODO")


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_docstrings_of_functions_begin_with_a_verb(path):
    found = {
        function.name: text.splitlines()[0]
        for function in functions(path)
        if (text := ast.get_docstring(function)) and not is_property(function)
    }
    assert {name: line for name, line in found.items() if not begins_with_verb(line)} == {}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_pickle_and_no_code_from_files(path):
    names = set(imports(path))
    if relative(path) != "backbones/state_dict.py":  # catches what torch's safe unpickler raises
        assert "pickle" not in names
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "load"):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if ast.unparse(node.func) == "torch.load":
                assert keywords.get("weights_only") == "True"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "compile")
