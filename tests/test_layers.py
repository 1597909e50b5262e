"""The house rules that a program can hold, read from the syntax tree; which way imports run is import-linter's."""

import ast
import builtins
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mesh import errors

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "mesh").rglob("*.py"))
PURE_CLIENT = [f"mesh/client/{name}.py" for name in ("session", "calling", "connection", "events", "serving")]
PURE = [path for path in MODULES if path.startswith("mesh/core/") or path in PURE_CLIENT]

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

# What pure code may import. All of it computes; none of it can tell where or when it runs.
PURE_IMPORTS = (
    *("base64", "binascii", "bisect", "collections", "copy", "enum", "functools", "hashlib", "heapq", "itertools"),
    *("math", "msgspec", "operator", "re", "statistics", "string", "struct", "textwrap", "types", "typing", "zlib"),
    *("mesh.core", "mesh.errors", "mesh.types"),
    *("mesh.client.calling", "mesh.client.connection", "mesh.client.events", "mesh.client.serving"),
)
CLIENT_SESSION_ONLY = (
    *("mesh.core.chunks", "mesh.core.codec", "mesh.core.ranges", "mesh.core.records", "mesh.core.stamps"),
    "mesh.core.vocabulary",
    *("mesh.errors", "mesh.types"),
    *("mesh.client.calling", "mesh.client.connection", "mesh.client.events", "mesh.client.serving"),
)
IMPURE_NAMES = ("__import__", "breakpoint", "eval", "exec", "hash", "id", "input", "open", "print")

BASES = (
    *("Struct", "NamedTuple", "Protocol", "Generic", "TypedDict"),
    *("Enum", "Flag", "IntEnum", "IntFlag", "StrEnum"),
)
EXCEPTIONS = {
    *errors.__all__,
    *(name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)),
}

# Calls that take a set's elements in an order that lasts. sorted, min, max, sum, len, any and all do not show it.
IN_ORDER = ("deque", "dict", "enumerate", "fromkeys", "iter", "join", "list", "map", "filter", "next", "tuple", "zip")
SET_METHODS = ("difference", "intersection", "symmetric_difference", "union")
SET_TYPES = ("set", "frozenset", "Set", "AbstractSet", "MutableSet", "FrozenSet")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def last_name(node: ast.AST) -> str:
    """`Struct` of `Struct`, `msgspec.Struct` and `Struct[T]`; empty for anything else."""
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def impure(tree: ast.Module, only: Iterable[str] = ()) -> Iterator[tuple[int, str]]:
    """Imports and calls by which values from outside get in. `only` narrows what of mesh may be imported."""
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own = stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in IMPURE_NAMES and node.id not in own:
            yield node.lineno, f"uses {node.id}()"
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            # `from mesh.core import node` imports a module: judged by the full name where mesh is concerned.
            module = node.module or ""
            names = [f"{module}.{name}" for name in names] if module in ("mesh", "mesh.core") else [module]
        for name in names:
            if not within(name, PURE_IMPORTS) or (only and within(name, ["mesh"]) and not within(name, only)):
                yield node.lineno, f"imports {name}"


class Sets:
    """Which names and fields hold sets, as far as one can tell without types."""

    def __init__(self, fields: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        self.fields = set(fields)
        self.names = set(names)

    def learn(self, scope: ast.AST) -> None:
        for node in ast.walk(scope):
            if isinstance(node, ast.arg) and node.annotation is not None and self.declares(node.annotation):
                self.names.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and self.declares(node.annotation):
                self.add(node.target)
            elif isinstance(node, ast.Assign) and self.holds(node.value):
                for target in node.targets:
                    self.add(target)

    def add(self, target: ast.expr) -> None:
        (self.fields if isinstance(target, ast.Attribute) else self.names).add(last_name(target))

    @staticmethod
    def declares(annotation: ast.expr) -> bool:
        return last_name(annotation) in SET_TYPES

    def holds(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Set | ast.SetComp):
            return True
        if isinstance(node, ast.Name):
            return node.id in self.names
        if isinstance(node, ast.Attribute):
            return node.attr in self.fields
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.BitXor | ast.Sub):
            return any(self.holds(side) or is_method(side, ("keys",)) for side in (node.left, node.right))
        if isinstance(node, ast.Call):
            return last_name(node.func) in SET_TYPES or is_method(node, SET_METHODS)
        return False


def is_method(node: ast.expr, names: Iterable[str]) -> bool:
    """Whether the expression calls a method of one of these names."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names


def set_order(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Places where the order of a set, which changes with PYTHONHASHSEED, gets into the result."""
    outside = Sets()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            declared = [entry for entry in node.body if isinstance(entry, ast.AnnAssign)]
            outside.fields |= {last_name(entry.target) for entry in declared if Sets.declares(entry.annotation)}
    rest = ast.Module([node for node in tree.body if not isinstance(node, (*FUNCTIONS, ast.ClassDef))], [])
    outside.learn(rest)
    scopes: list[ast.AST] = [rest, *(node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))]
    for scope in scopes:
        sets = Sets(outside.fields, outside.names)
        sets.learn(scope)
        yield from taken_in_order(scope, sets)


def taken_in_order(scope: ast.AST, sets: Sets) -> Iterator[tuple[int, str]]:
    for node in ast.walk(scope):
        taken: list[ast.expr] = []
        if isinstance(node, ast.For):
            taken = [node.iter]
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
            taken = [part.iter for part in node.generators]
        elif isinstance(node, ast.Starred | ast.YieldFrom):
            taken = [node.value]
        elif isinstance(node, ast.Call) and last_name(node.func) in IN_ORDER:
            taken = node.args
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_method(node, ("pop",)):
            taken = [] if node.args else [node.func.value]
        for expression in taken:
            if sets.holds(expression):
                yield expression.lineno, f"takes the elements of a set in order: {ast.unparse(expression)}"


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX} are allowed"


def inheritance(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Classes with a base that is neither a form (Struct, Enum, Protocol ...), an exception, nor a private form."""
    exceptions, private_forms = set(EXCEPTIONS), set[str]()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = [last_name(base) for base in node.bases]
        for base in bases:
            if base not in {*BASES, *exceptions, *private_forms} and not base.endswith("Error"):
                yield node.lineno, f"{node.name} inherits from {base or 'an expression'}"
        if node.name.startswith("_") and "Struct" in bases:
            private_forms.add(node.name)
        if any(base in exceptions for base in bases):
            exceptions.add(node.name)


def exports(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
    """A module without `__all__`, unless it is an `__init__` or `__main__` that exports nothing."""
    bound: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            bound |= {last_name(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
    silent = name == "__main__" or (name == "__init__" and all(entry.startswith("_") for entry in bound))
    if "__all__" not in bound and not silent:
        yield 1, "has no __all__"


def parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


def listed(path: str, found: Iterable[tuple[int, str]]) -> list[str]:
    return [f"{path}:{line} {problem}" for line, problem in sorted(found)]


@pytest.mark.parametrize("path", PURE)
def test_pure_code_takes_in_nothing_but_its_arguments(path: str) -> None:
    assert [] == listed(path, impure(parse(path), CLIENT_SESSION_ONLY if "client" in path else ()))


@pytest.mark.parametrize("path", PURE)
def test_pure_code_never_depends_on_the_order_of_a_set(path: str) -> None:
    assert [] == listed(path, set_order(parse(path)))


@pytest.mark.parametrize("path", MODULES)
def test_every_module_is_short_flat_and_says_what_it_exports(path: str) -> None:
    tree = parse(path)
    assert [] == listed(path, [*long_functions(tree), *inheritance(tree), *exports(tree, Path(path).stem)])
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES_MAX, f"{path} has {lines} lines, at most {MODULE_LINES_MAX} are allowed"


@pytest.mark.parametrize("name", [Path(p).stem for p in PURE if "core" in p and not p.endswith("__init__.py")])
def test_every_core_module_has_its_test_file(name: str) -> None:
    assert (ROOT / "tests" / "core" / f"test_{name}.py").exists(), f"tests/core/test_{name}.py is missing"


def test_consul_holds_no_python_that_would_shadow_its_library() -> None:
    assert [] == sorted((ROOT / "consul").rglob("*.py"))


BAD = {
    "import time": "imports time",
    "from random import random": "imports random",
    "import os.path": "imports os.path",
    "from mesh import connect": "imports mesh.connect",
    "from mesh.agent import reactor": "imports mesh.agent",
    "def f(x):\n    import logging": "imports logging",
    "x = hash('a')": "uses hash()",
    "x = sorted(things, key=id)": "uses id()",
    "print(1)": "uses print()",
    "open('file')": "uses open()",
    "for x in {1, 2}: pass": "order: {1, 2}",
    "y = [x for x in set(z)]": "order: set(z)",
    "y = list(frozenset(z))": "order: frozenset(z)",
    "y = ', '.join({str(x) for x in z})": "order: {str(x) for x in z}",
    "def f(y: set[int]):\n    return [*y]": "order: y",
    "y = a.keys() - b.keys()\nfor x in y: pass": "order: y",
    "class A:\n    held: frozenset[int]\n    def f(self):\n        yield from map(g, self.held)": "order: self.held",
    "y: set[int] = z\ny.pop()": "order: y",
    "SEEN = {1}\ndef f():\n    return next(iter(SEEN))": "order: SEEN",
    "for x in a.union(b): pass": "order: a.union(b)",
    "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX: f"f has {FUNCTION_LINES_MAX + 1} lines",
    "class A(Base): pass": "A inherits from Base",
    "class A(Struct): pass\nclass B(A): pass": "B inherits from A",
    "class A(make()): pass": "A inherits from an expression",
    "x = 1": "has no __all__",
}


@pytest.mark.parametrize(("code", "problem"), BAD.items())
def test_the_checks_find_what_they_are_for(code: str, problem: str) -> None:
    tree = ast.parse(code)
    checks = [impure, set_order, long_functions, inheritance]
    found = [text for check in checks for _, text in check(tree)] + [text for _, text in exports(tree, "module")]
    assert any(problem in text for text in found), found


def test_a_client_session_may_import_less_of_mesh_than_the_core() -> None:
    tree = ast.parse("from mesh.core import records, node\nfrom mesh.core.pool import Pool")
    assert [(1, "imports mesh.core.node"), (2, "imports mesh.core.pool")] == sorted(impure(tree, CLIENT_SESSION_ONLY))


def test_the_checks_leave_good_code_alone() -> None:
    code = """
        import enum
        import msgspec
        from collections.abc import Sequence
        from typing import Protocol
        from mesh.core import records
        from mesh.errors import MeshError
        __all__ = ["Color", "Lost", "Point", "Verb"]
        class _Wire(msgspec.Struct, array_like=True): pass
        class Point(_Wire, tag=1):
            seen: set[int]
            def order(self, others: dict[int, int]) -> list[int]:
                if self.seen & {1, 2} and len(self.seen) > max(self.seen):
                    return [x for x in others if x not in self.seen]
                return sorted(self.seen | others.keys())
            def other(self, seen: list[int]) -> int:
                return sum(id for id in seen[0:1])
        class Color(enum.IntEnum):
            RED = 1
        class Verb(Protocol[T]): ...
        class Lost(MeshError, TimeoutError): ...
        class LostForGood(Lost): ...
    """
    tree = ast.parse(textwrap.dedent(code))
    found = [*impure(tree), *set_order(tree), *long_functions(tree), *inheritance(tree), *exports(tree, "module")]
    assert [] == found
    assert [] == list(exports(ast.parse('"""A package."""'), "__init__"))
    assert [] == list(exports(ast.parse("main()"), "__main__"))
