"""The description of a product in its two forms: HTML, and the plain text of it. What is given as one is stored as both."""

from collections.abc import Mapping, Sequence
from typing import Any

from storefront.core.cooperative import run_in_thread_if_long
from storefront.core.html import HtmlLimitError, SafeHtml, render_text_as_html, sanitize_html
from storefront.models.product import MAX_DESCRIPTION_CHARACTERS, MAX_HTML_CHARACTERS
from storefront.models.rows import ProductRow
from storefront.writes.field_errors import FieldError, InvalidInputReason, make_invalid_input_error

# Of 7 µs each.
_TAGS_PER_STEP = 5


async def sanitize_description(html: str) -> SafeHtml:
    """The description that is stored for HTML of a client. Raises HtmlLimitError."""
    return await run_in_thread_if_long(html.count("<") // _TAGS_PER_STEP, sanitize_description_now, html)


def sanitize_description_now(html: str) -> SafeHtml:
    """`sanitize_description`, in this thread: up to a quarter of a second for hostile HTML."""
    return sanitize_html(html, MAX_HTML_CHARACTERS, MAX_DESCRIPTION_CHARACTERS)


async def sanitize_html_field(values: Mapping[str, Any], path: Sequence[str] = ()) -> tuple[dict[str, Any], list[FieldError]]:
    """The valid fields of an input, by their GraphQL names, with both forms of a `descriptionHtml`, and its errors."""
    completed = dict(values)
    html = values.get("descriptionHtml")
    if "description" in values and "descriptionHtml" in values and (html, values["description"]) != (None, None):
        problem = "is the other form of `description`: give one of description and descriptionHtml, and leave the other out."
        return completed, [make_invalid_input_error([*path, "descriptionHtml"], problem, InvalidInputReason.CONFLICTING)]
    if "descriptionHtml" in values:
        try:
            safe = await sanitize_description(html or "")
        except HtmlLimitError as error:
            return completed, [make_invalid_input_error([*path, "descriptionHtml"], str(error), InvalidInputReason.TOO_LONG)]
        completed |= {"descriptionHtml": safe.html or None, "description": safe.text or None}
    return completed, []


def format_description(values: Mapping[str, Any], stored: ProductRow | None = None) -> dict[str, Any]:
    """The fields with the HTML of a `description` that is given alone. The text that a product has already keeps its format."""
    if "description" not in values or "descriptionHtml" in values:
        return dict(values)
    text = values["description"]
    if stored is not None and stored.description == text and stored.description_html is not None:
        return dict(values)
    return {**values, "descriptionHtml": render_text_as_html(text or "", MAX_HTML_CHARACTERS) or None}
