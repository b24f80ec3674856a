"""Columns of strangers' tables, of whatever type, as the numbers, texts and sums that they stand for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def plain_column(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, as `plain_array` has it."""
    return plain_array(column.combine_chunks())


def plain_array(values: pa.Array) -> pa.Array:
    """The values without a dictionary (some writers keep repeated texts as numbers), and no views, which Arrow's
    functions do not take."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_string_view(values.type):
        return values.cast(pa.string())
    return values.cast(pa.binary()) if pa.types.is_binary_view(values.type) else values


_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


# How text columns say that there is nothing, in lower case.
_NOTHING = ("", "-", "n/a", "na", "nan", "none", "null")


def numbers(column: pa.Array, judged: bool = True) -> pa.Array:
    """float64; also of texts, as tables have them that once were CSV files: what is no number there is null.

    judged: whether texts without one number among them are refused (pyarrow.ArrowInvalid), as a column that holds
    something else; a few rows are too few to tell.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    is_text = (
        _is_text(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    )
    if is_text:
        stripped = pc.utf8_trim_whitespace(texts(column))
        is_number = pc.match_substring_regex(stripped, _NUMBER)
        is_something = pc.invert(pc.is_in(pc.utf8_lower(stripped), value_set=pa.array([*_NOTHING, None])))
        is_text = judged and not pc.any(is_number).as_py() and pc.any(is_something).as_py()
        column = pc.if_else(is_number, stripped, None)
    if is_text or (pa.types.is_boolean(column.type) and column.null_count < len(column)):
        raise pa.ArrowInvalid("it holds no numbers")
    # Unsafe: whole numbers that float64 rounds are no sizes anyway.
    return column.cast(pa.float64(), safe=False)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def texts(column: pa.Array) -> pa.Array:
    """string, null where bytes are no UTF-8.

    Numbers are refused (pyarrow.ArrowInvalid): a table that holds them there has its columns mixed up.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    # A column of nothing but missing texts is written by pandas as one of NaN.
    if pc.all(pc.is_null(column, nan_is_null=True), min_count=0).as_py():
        return pa.nulls(len(column), pa.string())
    if pa.types.is_primitive(column.type):
        raise pa.ArrowInvalid("it holds no text")
    if pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
    encoded = column.cast(pa.binary())
    try:
        return encoded.cast(pa.string())  # looks whether it is UTF-8, which a file's own word is not
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in encoded.to_pylist()], pa.string())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


_SUM = re.compile(r"[0-9a-f]{64}")


def sums(column: pa.Array) -> pa.Array:
    """sha256 sums: string, 64 hex digits or null, from hex or from 32 bytes."""
    import pyarrow as pa

    values = column.to_pylist() if pa.types.is_fixed_size_binary(column.type) else None
    if values is None and (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        values = column.to_pylist()
    if values is not None:
        found = [value.hex() if value is not None and len(value) == 32 else _ascii(value) for value in values]
    else:
        found = [_ascii(value) for value in texts(column).to_pylist()]
    return pa.array([text if text and _SUM.fullmatch(text) else None for text in found], pa.string())


def _ascii(value: bytes | str | None) -> str | None:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return text.strip().lower() if text is not None else None


def extra_json(table: pa.Table, used: set[str]) -> pa.Array:
    """string: a JSON object of each row's values in the columns that are not used; null where it has none."""
    import pyarrow as pa

    names = [name for name in table.column_names if name not in used]
    if not names:
        return pa.nulls(len(table), pa.string())
    columns = [_python_values(plain_column(table[name])) for name in names]
    rows = (_present(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
    # What JSON has no form for (bytes) is kept as text.
    return pa.array([json.dumps(row, default=str) if row else None for row in rows], pa.string())


def _python_values(column: pa.Array) -> list[Any]:
    """A value of Python for each row; None where Python has none for it, such as a list of dates after the year 9999
    or text that is no UTF-8 in a list."""
    import pyarrow as pa

    try:
        return _readable(column).to_pylist()
    except (ArithmeticError, LookupError, ValueError, pa.ArrowException):
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    import pyarrow as pa

    try:
        return value.as_py()
    except (ArithmeticError, LookupError, ValueError, pa.ArrowException):
        return None


def _readable(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        try:
            return column.cast(pa.string())
        except pa.ArrowException:  # a zone that this machine does not know: the moment is left, in UTC
            column = column.cast(pa.timestamp(column.type.unit))
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return column.cast(pa.string())  # Python's own dates end with the year 9999
    return texts(column) if _is_text(column.type) else column


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, given in row.items() if (value := finite(given)) is not None}


def finite(value: Any) -> Any:
    """A value with None in the place of numbers that JSON does not know: NaN and the infinite ones."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, (list, tuple)) else value
