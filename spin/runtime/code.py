"""The code by its meaning: what a function reaches by import, and a hash of that which comments do not change.

A stage is out of date when the code that it runs means something else. Its bytes say too much: a comment, a docstring or
a blank line would train a model again. So what is hashed is the syntax tree without them, of every module that a
function reaches by its imports, those inside functions too. A file that lies beside a module which names it (a page's
template) counts with its bytes.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Where the package `spin` lies; modules are named from here."""


def code_of(start: str) -> dict[str, str]:
    """{module or file: SHA-256 of its meaning} for all of `spin` that `start` reaches.

    `start` is "package.module", or "package.module:function". Of a function's own module only what the function uses
    counts: that and nothing else of the module stands under `start`.
    """
    module, _, function = start.partition(":")
    own = _Slice(_tree(module), module, function) if function else None
    reached = _reached(own.imports) if own else _reached([module])
    code = {name: _meaning(name) for name in sorted(reached)}
    for file in sorted({file for name in reached for file in _files_beside(name)}):
        code[file.relative_to(ROOT).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return code | ({start: own.meaning} if own else {})


@functools.cache
def code_digest(*starts: str) -> str:
    """One hash of the meaning of all that `starts` reach."""
    lines = sorted({f"{name} {meaning}" for start in starts for name, meaning in code_of(start).items()})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def imported(module: str, package: str = "spin") -> set[str]:
    """Modules of `package` that a module imports, their packages included."""
    return set(_imports(_tree(module), module, package))


def _reached(starts: "set[str] | list[str]") -> set[str]:
    """Modules that `starts` and what they import name, themselves included."""
    reached: set[str] = set()
    waiting = [package for start in starts for package in _with_packages(start)]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += imported(module) - reached
    return reached


def _imports(node: ast.AST, module: str, package: str = "spin") -> Iterator[str]:
    """Modules of `package` named by the import statements anywhere below `node`; raises `ValueError` for relative ones."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            named = [alias.name for alias in inner.names]
        elif isinstance(inner, ast.ImportFrom):
            if inner.level:
                raise ValueError(f"{module} must import by full names, got a relative import")
            whole = str(inner.module)
            named = [whole, *(f"{whole}.{alias.name}" for alias in inner.names)]
        else:
            continue
        for name in named:
            if name.partition(".")[0] == package and _path(name).is_file():
                yield from _with_packages(name)


def _with_packages(module: str) -> list[str]:
    """A module and the packages it lies in, which Python imports first."""
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _files_beside(module: str) -> Iterator[Path]:
    """Files in the module's folder that it names in a string."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 100:
            file = _path(module).parent / node.value
            if file.parent == _path(module).parent and file.is_file():
                yield file


def _path(module: str) -> Path:
    """The module's file, which need not be there."""
    place = ROOT.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_bytes())


@functools.cache
def _meaning(module: str) -> str:
    return _hash(_tree(module))


def _hash(*nodes: ast.AST) -> str:
    return hashlib.sha256("\n".join(map(_text, nodes)).encode()).hexdigest()


def _text(node: object) -> str:
    """A syntax tree as text, without comments, layout, and strings that stand alone, which are docstrings.

    Unlike `ast.dump` the same under every Python: fields that later versions added are left out while they are empty.
    """
    if isinstance(node, list):
        return f"[{', '.join(_text(item) for item in node if not _says_nothing(item))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [f"{name}={_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({', '.join(fields)})"


def _says_nothing(node: object) -> bool:
    """Whether a statement is a docstring (of a module, class, function or attribute) or the version's number."""
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__version__"
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


class _Slice:
    """What one function uses of its module: other definitions there, and imports."""

    def __init__(self, tree: ast.Module, module: str, function: str) -> None:
        self._definitions: dict[str, ast.stmt] = {}
        self._bindings: dict[str, ast.stmt] = {}  # name -> the import that binds it
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._bindings |= {
                    (alias.asname or alias.name).partition(".")[0]: node for alias in node.names
                }
            for name in _defined(node):
                self._definitions[name] = node
        self._used: dict[str, ast.stmt] = {}
        self._follow(function)
        nodes = list(dict.fromkeys(self._used.values()))
        self.imports = {name for node in nodes for name in _imports(node, module)}
        self.meaning = _hash(*(node for node in nodes if not isinstance(node, (ast.Import, ast.ImportFrom))))

    def _follow(self, name: str) -> None:
        node = self._definitions.get(name) or self._bindings.get(name)
        if node is None or name in self._used:
            return
        self._used[name] = node
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                self._follow(inner.id)


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]
