"""Decimal separators: how the numbers of a column are written, inferred from the whole column, and their canonical form."""

import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

from storefront.imports.files.encodings import CHUNK_BYTES

# Thousands are grouped by the other separator, apostrophes or spaces.
_GROUPS = "'\u2019 \u00a0\u202f"
_COMMA_NUMBER = re.compile(rf"(-?)([1-9][0-9]{{0,2}}(?:[.{_GROUPS}][0-9]{{3}})+|[0-9]+)(?:,([0-9]*))?", re.ASCII)
# In India commas group hundreds above the first thousand: 1,29,999.50.
_POINT_NUMBER = re.compile(
    rf"(-?)([1-9][0-9]{{0,2}}(?:[,{_GROUPS}][0-9]{{3}})+|[1-9][0-9]?(?:,[0-9]{{2}})+,[0-9]{{3}}|[0-9]+)(?:\.([0-9]*))?", re.ASCII
)
# Groups that no separator of decimals is taken for.
_SPACED_NUMBER = re.compile(rf"-?[1-9][0-9]{{0,2}}(?:[{_GROUPS}][0-9]{{3}})+(?:\.[0-9]*)?", re.ASCII)
# 1.299 and 1,299: a group of thousands, or three decimals.
_AMBIGUOUS = re.compile(r"-?[1-9][0-9]{0,2}[.,][0-9]{3}", re.ASCII)
# A number with a comma, in quotes where cells are separated by commas. Also one with a dash, in UTF-8: 12,- and 12,–
_QUOTED_COMMA, _BARE_COMMA = re.compile(rb'"[^",\n\r]{0,40}[0-9],[-0-9\xe2]'), re.compile(rb"[0-9],[-0-9\xe2]")
_OVERLAP_BYTES = 64
_REMEDY = "state the decimal separator (decimalSeparator, --decimal)"


class DecimalSeparator(Enum):
    """What separates the decimals of numbers. AUTO: what each column says without doubt, or else a point."""

    AUTO = "auto"
    POINT = "point"
    COMMA = "comma"


class NumberFormat(Enum):
    """How the numbers of a column are written. PLAIN: as they are. UNCLEAR: three digits after a separator may be either."""

    PLAIN = "plain"
    POINT = "point"
    COMMA = "comma"
    UNCLEAR = "unclear"


class UnclearNumberError(ValueError):
    """A number that may mean two amounts. The message says so, and how to decide."""


@dataclass(slots=True)
class _Evidence:
    """How many cells of a column can only have been written in one way."""

    commas: int = 0
    points: int = 0
    # Of the points, those with commas between groups.
    grouped_points: int = 0
    ambiguous_commas: int = 0
    ambiguous_points: int = 0


@dataclass(slots=True)
class NumberColumns:
    """Collects the cells of columns of numbers."""

    _evidence: dict[str, _Evidence] = field(default_factory=dict)

    def add_cell(self, column: str, cell: str) -> None:
        """Add a cell that is not empty."""
        if "," not in cell and "." not in cell:
            return
        evidence = self._evidence.setdefault(column, _Evidence())
        if _AMBIGUOUS.fullmatch(cell):
            if "," in cell:
                evidence.ambiguous_commas += 1
            else:
                evidence.ambiguous_points += 1
            return
        has_comma, has_point = _COMMA_NUMBER.fullmatch(cell), _POINT_NUMBER.fullmatch(cell)
        if has_comma and not has_point:
            evidence.commas += 1
        elif has_point and not has_comma:
            evidence.points += 1
            evidence.grouped_points += "," in cell

    def decide_formats(self) -> dict[str, NumberFormat]:
        """The format of each column that is not plain."""
        formats = {column: _decide_format(evidence) for column, evidence in self._evidence.items()}
        if NumberFormat.COMMA in formats.values():
            # Of a file with decimal commas, 1.299 alone does not say which it is.
            for column, evidence in self._evidence.items():
                if formats[column] is NumberFormat.PLAIN and not evidence.points and evidence.ambiguous_points:
                    formats[column] = NumberFormat.UNCLEAR
        return {column: number_format for column, number_format in formats.items() if number_format is not NumberFormat.PLAIN}


def _decide_format(evidence: _Evidence) -> NumberFormat:
    if evidence.commas:
        return NumberFormat.UNCLEAR if evidence.points else NumberFormat.COMMA
    if evidence.points:
        return NumberFormat.POINT if evidence.grouped_points or evidence.ambiguous_commas else NumberFormat.PLAIN
    return NumberFormat.UNCLEAR if evidence.ambiguous_commas else NumberFormat.PLAIN


def find_decimal_commas(file: BinaryIO, delimiter: str) -> Generator[None, None, bool]:
    """Return whether a file may have numbers with commas. Most have none, and need not be read twice. Yields after each chunk."""
    pattern, rest = _QUOTED_COMMA if delimiter == "," else _BARE_COMMA, b""
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        if pattern.search(rest + chunk):
            return True
        rest = chunk[-_OVERLAP_BYTES:]
        yield None
    return False


def choose_formats(separator: DecimalSeparator, columns: Iterable[str]) -> Mapping[str, NumberFormat]:
    """The formats of columns whose separator is given."""
    return dict.fromkeys(columns, NumberFormat.COMMA if separator is DecimalSeparator.COMMA else NumberFormat.POINT)


def remove_spaces_between_groups(cell: str) -> str:
    """A number without the spaces or apostrophes between its groups of thousands. Any other cell stays."""
    return re.sub(rf"[{_GROUPS}]", "", cell) if _SPACED_NUMBER.fullmatch(cell) else cell


def normalize_number(cell: str, number_format: NumberFormat) -> str:
    """A number with a point and without groups. A cell that is no number stays. Raises UnclearNumberError."""
    if number_format is NumberFormat.UNCLEAR:
        if _AMBIGUOUS.fullmatch(cell):
            raise UnclearNumberError(f"“{cell}” may have three decimals or thousands: {_REMEDY}")
        if "," in cell and _COMMA_NUMBER.fullmatch(cell):
            raise UnclearNumberError(f"“{cell}” has a comma, and other cells of the column a point: {_REMEDY}")
        return cell
    pattern = _COMMA_NUMBER if number_format is NumberFormat.COMMA else _POINT_NUMBER
    if number_format is NumberFormat.PLAIN or not (match := pattern.fullmatch(cell)):
        if number_format is NumberFormat.COMMA and _POINT_NUMBER.fullmatch(cell):
            raise UnclearNumberError(
                f"“{cell}” has a decimal point, and the numbers of the column have decimal commas: correct it"
            )
        return cell
    sign, whole, decimals = match.groups()
    digits = re.sub(r"\D", "", whole)
    return f"{sign}{digits}.{decimals}" if decimals else f"{sign}{digits}"
