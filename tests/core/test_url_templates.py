"""Templates of the URLs of products: what is refused, and what is filled in."""

import pytest

from storefront.core.url_templates import encode_url, expand_template, find_template_problem, get_origin

VALUES = {"handle": "thé-vert/1", "productId": "p1", "variantId": "v1"}


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", "address of a page"),
        ("shop.example/{handle}", "address of a page"),
        ("javascript:alert('{handle}')", "address of a page"),
        ("https://{handle}.example/", "address of a page"),
        ("https://user@shop.example/{handle}", "address of a page"),
        ("https://shop.example:99999/{handle}", "address of a page"),
        ("https://shop.example/a b/{handle}", "address of a page"),
        ("https://shop.example/", "must have a placeholder: {handle}, {productId}, {variantId}"),
        ("https://shop.example/{sku}", "unknown placeholder {sku}"),
        ("https://shop.example/{handle}}", "brace that is no placeholder"),
        (f"https://shop.example/{{handle}}?{'x' * 1_000}", "at most 1,000 characters"),
    ],
)
def test_invalid_templates_are_refused(template: str, problem: str) -> None:
    assert problem in (find_template_problem(template) or "")


@pytest.mark.parametrize(
    ("template", "url", "origin"),
    [
        ("https://shop.example/{handle}", "https://shop.example/th%C3%A9-vert%2F1", "https://shop.example/"),
        ("http://shop.example:81?p={productId}#{variantId}", "http://shop.example:81?p=p1#v1", "http://shop.example:81/"),
        ("https://bücher.example/ü/{variantId}?q=%C3%A9", "https://xn--bcher-kva.example/%C3%BC/v1?q=%C3%A9", None),
    ],
)
def test_templates_expand_to_ascii_urls(template: str, url: str, origin: str | None) -> None:
    assert find_template_problem(template) is None
    assert expand_template(template, VALUES) == url
    assert get_origin(template) == (origin or encode_url("https://bücher.example/"))
