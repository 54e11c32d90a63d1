"""`autotune explain`, and the table that `autotune trials` can write."""

import json

import jsonschema
import pytest
from cli_support import Cli
from test_cli_json import CONFIG, NUMBER, TEXT, among, each, or_null

STEP = among(
    {
        "value": {},
        "source": {"enum": ["measured", "forecast"]},
        "tokens_per_second": or_null(NUMBER),
        "speed_change": or_null({"type": "number"}),
        "peak_bytes": or_null(NUMBER),
        "bytes_change": or_null({"type": "number"}),
        "fits": {"type": "boolean"},
        "why_not": or_null(TEXT),
    }
)
EXPLANATION = among(
    {
        "job": TEXT,
        "config": CONFIG,
        "knobs": each(among({"field": TEXT, "value": {}, "steps": each(STEP)})),
        "rivals": each(among({"trial": NUMBER, "config": CONFIG, "changes": each(TEXT), "why_not": TEXT})),
        "bounds": among({"bound": {"enum": ["memory", "compute", "communication"]}, "reason": TEXT}),
        "cost": among({"seconds": NUMBER, "gpu_hours": NUMBER, "pays_after_hours": or_null(NUMBER)}),
        "notes": each(TEXT),
    }
)


@pytest.mark.usefixtures("recorded")
def test_json_has_every_knob_that_was_searched(cli: Cli):
    found = cli("explain", "recorded", "--json").json
    jsonschema.validate(found, EXPLANATION)
    assert found["knobs"]


@pytest.mark.usefixtures("recorded")
def test_a_person_reads_what_bounds_it_and_what_else_would_cost(cli: Cli):
    ended = cli("explain", "recorded")
    assert ended.code == 0
    for words in (
        "What bounds it",
        "What one step either way would change",
        "Why others lost",
        "Against the baseline",
        "What it cost",
        "padding",
    ):
        assert words in ended.out


@pytest.mark.usefixtures("recorded")
def test_without_a_recommendation_there_is_nothing_to_explain(cli: Cli):
    ended = cli("explain", "hopeless")
    assert ended.code == 4
    assert "has no recommendation" in ended.sentence
    assert cli("explain", "nosuch").code == 2


@pytest.mark.usefixtures("recorded")
def test_a_table_has_every_probe(cli: Cli, tmp_path):
    rows = cli("trials", "recorded", "--table", tmp_path / "table.json", "--json").json["trials"]
    table = json.loads((tmp_path / "table.json").read_text())
    assert len(table["rows"]) == len(rows)
    assert table["job"]["name"] == "recorded"
