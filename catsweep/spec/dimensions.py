"""The search space of a YAML as a tree of typed nodes.

{space: choice, options: [...]}            one of the options; an option may hold further dimensions
{space: uniform, lower: 0, upper: 1}       a float
{space: loguniform, lower: 1e-5, upper: 1} a float, uniform in its logarithm
{space: randint, lower: 2, upper: 16}      an integer, both ends included
anything else                              itself; maps are searched for dimensions
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, model_validator

from catsweep.spec.base import Mismatch, Spec

Path = tuple[str | int, ...]


class ChoiceDimension(Spec):
    """One of the options; conditional dimensions lie inside them."""

    space: Literal["choice"] = "choice"
    options: list[Any] = Field(description="The options", min_length=1)


class UniformDimension(Spec):
    """A float between two bounds."""

    space: Literal["uniform", "loguniform"] = Field(description="Uniform in the value, or in its logarithm")
    lower: float = Field(description="Smallest value")
    upper: float = Field(description="Largest value")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> UniformDimension:
        _check_order(self.lower, self.upper)
        if self.space == "loguniform" and self.lower <= 0:
            raise Mismatch(found=f"lower {self.lower:g}", expected="loguniform: lower above 0")
        return self


class RandintDimension(Spec):
    """An integer between two bounds, both included."""

    space: Literal["randint"] = "randint"
    lower: int = Field(description="Smallest value")
    upper: int = Field(description="Largest value, included")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> RandintDimension:
        _check_order(self.lower, self.upper)
        return self


def _check_order(lower: float, upper: float) -> None:
    if not lower < upper:
        raise Mismatch(found=f"lower {lower:g} and upper {upper:g}", expected="lower below upper")


Dimension = Annotated[ChoiceDimension | UniformDimension | RandintDimension, Field(discriminator="space")]
_DIMENSION: TypeAdapter[ChoiceDimension | UniformDimension | RandintDimension] = TypeAdapter(Dimension)


@dataclass(frozen=True)
class Constant:
    """A value that is not searched."""

    value: Any


@dataclass(frozen=True)
class Mapping:
    """A map whose values may be searched."""

    children: dict[str, Node]


@dataclass(frozen=True)
class Choice:
    """One of several subtrees. `labels` are the options' places in the YAML: they name the option for good, also
    where a stratum has removed its neighbours."""

    options: tuple[Node, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Interval:
    """A number between two bounds, both included."""

    lower: float
    upper: float
    log: bool = False
    integer: bool = False


Node = Constant | Mapping | Choice | Interval


def parse_space(value: Any) -> Node:
    """The tree of a space that has been validated (see load.space_problems)."""
    if isinstance(value, dict) and "space" in value:
        match _DIMENSION.validate_python(value):
            case ChoiceDimension(options=options):
                return Choice(tuple(parse_space(option) for option in options), tuple(range(len(options))))
            case UniformDimension(space=space, lower=lower, upper=upper):
                return Interval(lower, upper, log=space == "loguniform")
            case RandintDimension(lower=lower, upper=upper):
                return Interval(lower, upper, integer=True)
    if isinstance(value, dict):
        return Mapping({str(key): parse_space(child) for key, child in value.items()})
    return Constant(value)


def raw_dimensions(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every map with the key `space` in a raw YAML tree, with its path; to be validated one by one."""
    if isinstance(value, dict):
        if "space" in value:
            yield path, value
        for key, child in value.items():
            yield from raw_dimensions(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from raw_dimensions(child, (*path, index))


def examples(node: Node, path: Path = ()) -> Iterator[tuple[Any, dict[Path, Path]]]:
    """Plain values that together try every option of every choice and both ends of every interval, each with a map
    from the value's paths to the paths in the YAML that they come from (for error messages).

    Independent parts of a map are tried side by side, not in every combination.
    """
    match node:
        case Constant(value):
            yield value, {(): path}
        case Interval(lower, upper, _, integer):
            for bound in (lower, upper):
                yield int(bound) if integer else bound, {(): path}
        case Choice(options, labels):
            for label, option in zip(labels, options, strict=True):
                yield from examples(option, (*path, "options", label))
        case Mapping(children):
            columns = {key: examples(child, (*path, key)) for key, child in children.items()}
            last = {key: next(column) for key, column in columns.items()}  # what has ended keeps its last value
            while True:
                origin: dict[Path, Path] = {(): path}
                for key, (_, child_origin) in last.items():
                    origin |= {(key, *inner): outer for inner, outer in child_origin.items()}
                yield {key: child_value for key, (child_value, _) in last.items()}, origin
                following = {key: found for key, column in columns.items() if (found := next(column, None)) is not None}
                if not following:
                    return
                last |= following
                columns = {key: columns[key] for key in following}


def option_values(node: Node, path: Path) -> Iterator[Any]:
    """Every value that stands at a path of a tree in any of its options: of intervals, and where an option lacks the path,
    none."""
    match node:
        case Choice(options, _):
            for option in options:
                yield from option_values(option, path)
        case Mapping(children) if path:
            if path[0] in children:
                yield from option_values(children[path[0]], path[1:])
        case Constant(value) if not path:
            yield value
        case _:
            return


def num_structures(node: Node) -> int:
    """How many different combinations of options the tree has."""
    match node:
        case Choice(options, _):
            return sum(num_structures(option) for option in options)
        case Mapping(children):
            total = 1
            for child in children.values():
                total *= num_structures(child)
            return total
        case _:
            return 1


def dimension_classes() -> dict[str, type[Spec]]:
    """The class of each `space: NAME`."""
    classes: tuple[type[Spec], ...] = (ChoiceDimension, UniformDimension, RandintDimension)
    return {name: spec for spec in classes for name in get_args(spec.model_fields["space"].annotation)}
