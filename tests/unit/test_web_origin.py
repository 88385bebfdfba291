"""Origins of pages and apps as settings list them: what none can have, and what to write."""

from __future__ import annotations

import pytest

from django_ws.conf.web_origin import is_listed, listing_fault, names_nobody, parsed


@pytest.mark.parametrize("listed", ["null", "NULL", "file://", "app://", "https://*.a.b:8443"])
def test_what_a_page_can_have_is_no_fault(listed: str) -> None:
    assert listing_fault(listed) == ""


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("example.com", "it has no scheme: write scheme, host"),
        ("*.example.com", "it has no scheme"),
        ("wss://example.com:8443", "write 'https://example.com:8443'"),
        ("https://example.com/", "write 'https://example.com'"),
        ("https://example.com/a/b", "write 'https://example.com'"),
        ("https://müller.de", "write 'https://xn--mller-kva.de'"),
        ("https://*example.com", "with a dot behind it"),
        ("https://", "it is no origin"),
        ("https://a b", "it is no origin"),
        ("1://a", "it is no origin"),
    ],
)
def test_a_fault_says_what_to_write(listed: str, says: str) -> None:
    fault = listing_fault(listed)
    assert says in fault
    for better in [text for text in fault.split("'")[1::2] if "write '" in fault]:
        assert listing_fault(better) == ""


@pytest.mark.parametrize(
    ("origin", "listed", "is_in"),
    [
        ("https://a.b", "https://A.b:443", True),
        ("https://a.b:443", "https://a.b", True),
        ("http://a.b:443", "http://a.b", False),
        ("https://c.a.b", "https://*.a.b", True),
        ("https://c.a.b", "https://*", False),
        ("null", "null", True),
        ("null", "https://*.a.b", False),
        ("*", "*", False),
    ],
)
def test_what_is_listed(origin: str, listed: str, is_in: bool) -> None:
    assert is_listed(origin, listed) is is_in


@pytest.mark.parametrize(
    ("origin", "nobody"),
    [("null", True), ("file://", True), ("FILE:///x", True), ("filex://a", False), ("a", False)],
)
def test_who_names_nobody(origin: str, nobody: bool) -> None:
    assert names_nobody(origin) is nobody


@pytest.mark.parametrize(
    "origin", ["https://", "null", "", "https://a/", "https:a", "a://b:999999"]
)
def test_what_is_no_origin(origin: str) -> None:
    assert parsed(origin) is None
