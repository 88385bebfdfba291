"""Exceptions whose frames are withheld, whatever they come from."""

import traceback

import pytest

from django_ws.logs.traceback_text import without_frames


def frames_of(error: BaseException) -> list[str]:
    """All files in a report of it that shows frames."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    return [line for line in report.format() if "s3cret" in line]


def failing(secret: str, *causes: Exception) -> Exception:
    """It was raised where a variable holds a secret."""
    try:
        if causes:
            raise ValueError("with a cause") from causes[0]
        raise ValueError("without")
    except ValueError as error:
        return error


def test_the_exception_and_its_causes_lose_their_frames() -> None:
    error = failing("s3cret", failing("s3cret"))
    assert frames_of(error)
    assert without_frames(error) is error
    assert frames_of(error) == []
    assert "Raised at" in error.__notes__[0]


def test_a_link_without_a_traceback_does_not_end_the_chain() -> None:
    """It was made and never raised, or its traceback was taken away."""
    middle = LookupError("never raised")
    middle.__cause__ = failing("s3cret")
    error = failing("s3cret", middle)
    assert middle.__traceback__ is None
    without_frames(error)
    assert frames_of(error) == []
    assert middle.__cause__.__traceback__ is None


def test_the_members_of_a_group_lose_them_too() -> None:
    group = ExceptionGroup("several", [failing("s3cret"), ExceptionGroup("", [failing("s3cret")])])
    assert frames_of(group)
    without_frames(group)
    assert frames_of(group) == []


def test_a_chain_that_goes_in_circles() -> None:
    first, second = failing("s3cret"), failing("s3cret")
    first.__cause__, second.__cause__ = second, first
    without_frames(first)
    assert frames_of(first) == []
    assert len(first.__notes__) == len(second.__notes__) == 1


@pytest.mark.parametrize("error", [ValueError("never raised")])
def test_what_was_never_raised(error: Exception) -> None:
    without_frames(error)
    assert not hasattr(error, "__notes__")
