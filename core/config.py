"""Read a YAML file into a dataclass, or say which file, line and key is wrong."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from interplant.core.errors import UsageError
from interplant.core.possible import Impossible
from interplant.core.schema import Task


class Checked(Protocol):
    """A configuration dataclass that knows which of its values are impossible."""

    def check(self) -> None:
        """Raise `Impossible` for the first value that cannot be."""


T = TypeVar("T", bound=Checked)


def load(path: Path, schema: type[T], overrides: Iterable[str] = ()) -> T:
    """Read ``path`` as ``schema``.

    Args:
        path: A YAML file.
        schema: One of the dataclasses of `interplant.core.schema`.
        overrides: Dotted changes, ``"training.steps=50"``.

    Raises:
        UsageError: The file is missing or not YAML; a key is unknown; a value has the wrong type or
            is impossible. The sentence starts with file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: expected a file here, found none") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        tree, content = _read(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{path}{line}: not valid YAML: {problem}") from None
    return parse(content, schema, str(path), overrides, tree)


def parse(
    content: Any,
    schema: type[T],
    origin: str,
    overrides: Iterable[str] = (),
    tree: yaml.Node | None = None,
) -> T:
    """Turn plain content (from YAML or from a message) into ``schema``; see `load`."""
    if not isinstance(content, dict):
        raise UsageError(f"{origin}: expected keys and values, found {type(content).__name__}")
    if tree is None and _refers(content):
        # Only a file of this machine may: a message could read the environment through it.
        raise UsageError(f"{origin}: expected plain values, found ${{...}}")
    words = _from_words(overrides)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), content, words)
        value: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
        value.check()
    except OmegaConfBaseException as error:
        for entry, wrong in _wrong_entries(schema, content):
            raise UsageError(f"{_place(origin, tree, entry)}: {_sentence(wrong)}") from None
        key = getattr(error, "full_key", None) or ""
        raise UsageError(f"{_place(origin, tree, key)}: {_sentence(error)}") from None
    except Impossible as error:
        raise UsageError(f"{_place(origin, tree, error.key)}: {error}") from None
    return value


@lru_cache(maxsize=16)
def task_from_json(text: str) -> Task:
    """Read a task that came as JSON; each round repeats it, so it is checked once. Treat it as read-only.

    Raises:
        UsageError: It is not a task.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UsageError(f"task: expected JSON, found something else: {error}") from None
    return parse(content, Task, "task")


def dump(value: Any) -> dict[str, Any]:
    """Turn a configuration dataclass into plain dicts, lists and scalars."""
    return asdict(value)


def to_json(value: Any) -> str:
    """Return a configuration dataclass as one line of JSON: equal values in equal order, equal text.

    Keys are not sorted: the order of a contract's columns is the order of the model's input channels.
    """
    return text_of(dump(value))


def text_of(content: dict[str, Any]) -> str:
    """Return what `dump` gives as `to_json` writes it."""
    return json.dumps(content, separators=(",", ":"))


def to_yaml(value: Any) -> str:
    """Return a configuration dataclass as YAML, keys in the order of the dataclass."""
    return yaml.safe_dump(dump(value), sort_keys=False, allow_unicode=True, width=100)


def _read(text: str) -> tuple[yaml.Node | None, Any]:
    """Return YAML's nodes and its content, where a key is a text also if it is ``on`` (YAML 1.1: a truth)."""
    loader = yaml.SafeLoader(text)
    try:
        tree = loader.get_single_node()
        if tree is None:
            return None, None
        _name_keys(tree)
        return tree, loader.construct_document(tree)
    finally:
        loader.dispose()


def _name_keys(node: yaml.Node, seen: set[int] | None = None) -> None:
    """Turn keys that are truths into texts; a node that aliases name again is looked at once."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _name_keys(part, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
            _name_keys(value, seen)


def _wrong_entries(
    schema: type, content: dict[Any, Any], prefix: str = ""
) -> Iterator[tuple[str, OmegaConfBaseException]]:
    """Find what is wrong inside lists: OmegaConf's errors do not say in which entry."""
    for name, kind in get_type_hints(schema).items():
        value = content.get(name)
        if is_dataclass(kind) and isinstance(value, dict):
            assert isinstance(kind, type)
            yield from _wrong_entries(kind, value, f"{prefix}{name}.")
        elif get_origin(kind) is list and is_dataclass(get_args(kind)[0]) and isinstance(value, list):
            for number, entry in enumerate(value):
                try:
                    OmegaConf.merge(OmegaConf.structured(get_args(kind)[0]), entry)
                except OmegaConfBaseException as error:
                    yield f"{prefix}{name}.{number}.{error.full_key or ''}".rstrip("."), error


def _refers(content: Any) -> bool:
    """Whether a key or text in plain content has OmegaConf look something up (``${oc.env:X}``)."""
    if isinstance(content, dict):
        return any(_refers(part) for pair in content.items() for part in pair)
    if isinstance(content, list):
        return any(_refers(part) for part in content)
    return isinstance(content, str) and "${" in content


def _from_words(overrides: Iterable[str]) -> DictConfig:
    words = list(overrides)
    for word in words:
        if "=" not in word:
            raise UsageError(f"override {word!r}: expected key=value, such as training.steps=50")
    return OmegaConf.from_dotlist(words)


def _place(origin: str, tree: yaml.Node | None, key: str) -> str:
    line = _line(tree, key.replace("[", ".").replace("]", "").split(".")) if tree and key else None
    return ":".join(part for part in (origin, str(line) if line else "", f" {key}" if key else "") if part)


def _line(node: yaml.Node, keys: list[str]) -> int | None:
    """Line (from 1) of the deepest part of a dotted key that stands in the file."""
    line: int | None = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == key), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _sentence(error: OmegaConfBaseException) -> str:
    first = str(error.msg or error).splitlines()[0].rstrip(".")
    key = getattr(error, "key", None)
    if "not in" in first and key is not None:
        return f"unknown key {str(key)!r}; remove it or correct its name"
    if type(error).__name__ == "MissingMandatoryValue":
        return "expected a value, found none"
    return first
