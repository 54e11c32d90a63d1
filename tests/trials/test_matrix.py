"""docs/engines.md is what the capabilities and the tests make of it."""

from pathlib import Path

from matrix import matrix

DOCUMENT = Path(__file__).parents[2] / "docs" / "engines.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == matrix(), "run `make engines`"
