"""The source code of a class's functions, where it is available."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property as functools_cached_property
from functools import partialmethod
from types import FunctionType
from typing import Any

from django.utils.functional import cached_property

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(value: Any) -> Iterator[FunctionType]:
    """The functions of the user's behind what stands in a class: a method, a property, ..."""
    match value:
        case staticmethod() | classmethod():
            yield from functions_of(value.__func__)
        case property():
            for each in (value.fget, value.fset, value.fdel):
                yield from functions_of(each)
        case cached_property() | functools_cached_property() | partialmethod():
            yield from functions_of(value.func)
        case FunctionType():
            with suppress(ValueError):  # it wraps itself
                value = inspect.unwrap(value)
            if isinstance(value, FunctionType):
                yield value


def parsed(function: FunctionType) -> FunctionNode | None:
    """Its syntax tree, with the line numbers of its file. None where there is no source, or where
    that is not the one which was imported.
    """
    try:
        lines, first = inspect.getsourcelines(function)
        text = "".join(lines)
        is_indented = text[:1].isspace()
        # Not textwrap.dedent(), which texts of several lines may hinder.
        tree = ast.parse(f"if True:\n{text}" if is_indented else text)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    ast.increment_lineno(tree, first - 1 - is_indented)
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode) and node.name == function.__name__:
            return node
    return None


def first_parameter(node: FunctionNode) -> str:
    """The name of ``self``; "" where there is none."""
    parameters = [*node.args.posonlyargs, *node.args.args]
    return parameters[0].arg if parameters else ""


def assignments(node: FunctionNode) -> Iterator[tuple[str, int]]:
    """The attributes of ``self`` that a method sets or deletes, each with its line."""
    self_name = first_parameter(node)
    annotated = {
        id(each.target)
        for each in ast.walk(node)
        if isinstance(each, ast.AnnAssign) and each.value is None
    }
    for each in ast.walk(node):
        if (
            isinstance(each, ast.Attribute)
            and isinstance(each.ctx, ast.Store | ast.Del)
            and isinstance(each.value, ast.Name)
            and each.value.id == self_name
            and id(each) not in annotated  # it sets nothing
        ):
            yield each.attr, each.lineno


def attributes_used(node: FunctionNode) -> set[str]:
    """The names of all attributes that a function reads, of whatever object."""
    return {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Load)
    }
