"""The package's lazy names."""

import pytest

import django_ws


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Consumer'"):
        _ = django_ws.Consumer


def test_dir_lists_the_public_names() -> None:
    assert dir(django_ws) == sorted(django_ws.__all__)
