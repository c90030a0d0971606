"""YAML with the line of everything in it, so that a mistake is named where it stands. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from common.ports.errors import PermanentError

MAX_NODES = 100_000
"""Aliases make a small file a huge value."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """`line` counts from 1; 0 where it is no line's fault."""

    line: int
    message: str
    file: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}" if place else self.message


class MistakesError(PermanentError):
    """What is wrong with a file, in order of lines."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = sorted(mistakes, key=lambda m: (m.file, m.line, m.message))
        super().__init__("\n".join(map(str, self.mistakes)))


@dataclass(frozen=True, slots=True)
class Document:
    value: Any
    lines: Mapping[Path, int]

    def line_of(self, path: Sequence[str | int]) -> int:
        """Of the value at the path, or of the nearest one around it that there is."""
        for end in range(len(path), -1, -1):
            if (line := self.lines.get(tuple(path[:end]))) is not None:
                return line
        return 0


def read_yaml(text: str, file: str = "") -> Document:
    """Plain values only: strings, numbers, booleans, null, lists and objects. Raises
    MistakesError: not YAML, another kind of value, a key twice or a key that is no string."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            reader = _Reader(loader, file)
            return Document(reader.value(node, ()) if node else None, reader.lines)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise MistakesError([_mistake_of(error, file)]) from None
    except RecursionError:
        raise MistakesError([Mistake(0, "is nested too deep, or contains itself", file)]) from None


def _mistake_of(error: yaml.YAMLError, file: str) -> Mistake:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return Mistake(mark.line + 1 if mark else 0, f"not YAML: {problem}", file)


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, file: str) -> None:
        self._loader = loader
        self._file = file
        self._nodes = 0
        self.lines: dict[Path, int] = {}

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._mistake(node, f"the file has more than {MAX_NODES} values")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, n)) for n, child in enumerate(node.value)]
        value = self._loader.construct_object(node)
        if not isinstance(value, str | int | float | bool | None):
            raise self._mistake(node, f"{node.value!r} must be put in quotes")
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node)
            if not isinstance(key, str):
                raise self._mistake(key_node, f"the name {key!r} must be put in quotes")
            if key in found:
                raise self._mistake(key_node, f"{key!r} is there twice")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, (*path, key))
        return found

    def _mistake(self, node: yaml.Node, message: str) -> MistakesError:
        return MistakesError([Mistake(node.start_mark.line + 1, message, self._file)])
