"""Workbooks of Excel, as bytes."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Cell = str | int | float | bool | None

_TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/>
<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>
</Types>"""
_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'


def column_name(index: int) -> str:
    """A, B, … Z, AA, …"""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(65 + rest) + name
    return name


def render_sheet(rows: Sequence[Sequence[Cell]], first_row: int = 1) -> str:
    """The XML of a sheet."""
    lines = []
    for number, row in enumerate(rows, first_row):
        cells = "".join(_render_cell(f"{column_name(n)}{number}", cell) for n, cell in enumerate(row) if cell is not None)
        lines.append(f'<row r="{number}">{cells}</row>')
    return f'<?xml version="1.0"?><worksheet {_MAIN}><sheetData>{"".join(lines)}</sheetData></worksheet>'


def _render_cell(place: str, cell: Cell) -> str:
    if isinstance(cell, bool):
        return f'<c r="{place}" t="b"><v>{int(cell)}</v></c>'
    if isinstance(cell, int | float):
        return f'<c r="{place}"><v>{cell!r}</v></c>'
    if cell and cell.startswith("#"):
        return f'<c r="{place}" t="e"><v>{escape(cell)}</v></c>'
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(cell or "")}</t></is></c>'


def build_workbook(sheets: Mapping[str, str], hidden: Sequence[str] = ()) -> bytes:
    """A workbook with these sheets, as XML by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", _TYPES)
        target = f'{_RELATIONS}/officeDocument" Target="xl/workbook.xml"'
        archive.writestr("_rels/.rels", f'<Relationships {_PACKAGE}><Relationship Id="r1" Type="{target}/></Relationships>')
        entries, relations = "", ""
        for n, name in enumerate(sheets, 1):
            state = ' state="hidden"' if name in hidden else ""
            entries += f'<sheet name="{escape(name)}" sheetId="{n}"{state} r:id="r{n}"/>'
            relations += f'<Relationship Id="r{n}" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet{n}.xml"/>'
            archive.writestr(f"xl/worksheets/sheet{n}.xml", sheets[name])
        archive.writestr("xl/workbook.xml", f'<workbook {_MAIN} xmlns:r="{_RELATIONS}"><sheets>{entries}</sheets></workbook>')
        archive.writestr("xl/_rels/workbook.xml.rels", f"<Relationships {_PACKAGE}>{relations}</Relationships>")
    return file.getvalue()


def build_sheet_workbook(*rows: Sequence[Cell]) -> bytes:
    """A workbook with one sheet of these rows."""
    return build_workbook({"Products": render_sheet(rows)})
