"""What each module imports, read from its source: at the top, in functions and by name (`importlib.import_module`)."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import: where it stands and the full dotted name of what it takes."""

    path: Path
    line: int
    importer: str
    imported: str

    def __str__(self) -> str:
        """Gives the place as editors understand it."""
        return f"{self.path}:{self.line}: {self.importer} imports {self.imported}"


def is_within(name: str, package: str) -> bool:
    """Tells whether a dotted name is `package` or something inside it."""
    return name == package or name.startswith(package + ".")


def imports_below(root: Path, *packages: str) -> Iterator[Import]:
    """Gives every import of every module of `packages`, which are folders below `root`."""
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            yield from imports_of(path, root)


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Gives every import of one module, wherever in the module it stands."""
    parts = path.relative_to(root).with_suffix("").parts
    importer = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    package = ".".join(parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for imported in _names(node, package):
            yield Import(path.relative_to(root), getattr(node, "lineno", 0), importer, imported)


def _names(node: ast.AST, package: str) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = ".".join([*package.split(".")[: len(package.split(".")) - level + 1], *([module] if module else [])])
            origin = base if level else module or ""
            # `from onboarding import ledger` takes a module, `from onboarding.errors import X` a name.
            yield from (f"{origin}.{alias.name}" for alias in names)
        case ast.Call(func=ast.Name(id="import_module" | "__import__"), args=[ast.Constant(value=str(name)), *_]):
            yield name
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            yield name
