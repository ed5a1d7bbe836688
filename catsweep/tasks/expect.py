"""Whether a split of a dataset looks as its task expects. Everything that differs is in one error."""

from __future__ import annotations

import pyarrow as pa

from catsweep.errors import DataError
from catsweep.spec.source import Expectation
from catsweep.spec.types import fits
from catsweep.spec.yaml import did_you_mean
from catsweep.tasks.hub_split import hub_features


def check_expectation(expect: Expectation, schema: pa.Schema, num_rows: int | None, *, split: str, where: str) -> None:
    """Raise DataError where columns, types, names of labels, or the number of rows differ.

    num_rows: of the whole split; None is not compared. where: dataset and place, for the message.
    """
    found = column_types(schema)
    columns = expect.columns if isinstance(expect.columns, dict) else dict.fromkeys(expect.columns, "any")
    differences = []
    for name, wanted in columns.items():
        if name not in found:
            hint = did_you_mean(name, found)
            shown = f"the columns {', '.join(sorted(found))}; expected {name!r} among them"
            differences.append(f"{shown} ({hint})" if hint else shown)
        elif not fits(wanted, found[name]):
            differences.append(f"column {name!r} of type {found[name]}; expected {wanted}")
    names = label_names(schema)
    for column, wanted_names in expect.labels.items():
        if names.get(column) != wanted_names:
            given = f"the labels {names[column]}" if column in names else "no names of labels"
            differences.append(f"{given} in column {column!r}; expected {wanted_names}")
    if num_rows is not None and expect.num_rows.get(split, num_rows) != num_rows:
        differences.append(
            f"{num_rows} rows; expected {expect.num_rows[split]} (`data.verify: schema` leaves row counts uncompared)"
        )
    if differences:
        raise DataError(
            f"{where}, split {split!r}: found {'; found '.join(differences)}. The dataset is another one, or it has "
            "changed: look at it, then correct `expect` and what depends on it, or pin a `revision`"
        )


def column_types(schema: pa.Schema) -> dict[str, str]:
    """The canonical type of each column; see `spec.types`."""
    labels = label_names(schema)
    return {field.name: "ClassLabel" if field.name in labels else _type(field.type) for field in schema}


def label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of each ClassLabel column, which Hugging Face keeps in the schema's metadata."""
    features = hub_features(schema)
    return {
        name: list(feature["names"])
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _type(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _type(kind.value_type)
    if pa.types.is_struct(kind):
        fields = sorted((kind.field(index) for index in range(kind.num_fields)), key=lambda field: str(field.name))
        return "{" + ", ".join(f"{field.name}: {_type(field.type)}" for field in fields) + "}"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list<{_type(kind.value_type)}>"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int"
    return "float" if pa.types.is_floating(kind) else str(kind)
