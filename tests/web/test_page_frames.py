"""The frames of the pages: served to all, with nothing in them that a strict policy would not run."""

import json
import re

import pytest
from starlette.testclient import TestClient

PAGES = ["/jobs", "/jobs/new", "/jobs/job", "/jobs/compare?a=one&b=two", "/login"]
INLINE = re.compile(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)|\son[a-z]+=|javascript:", re.IGNORECASE)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_html_without_inline_scripts(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not INLINE.search(answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_what_a_page_loads_is_there(client: TestClient, path: str) -> None:
    loaded = re.findall(r'(?:src|href)="(/assets/[^"]+)"', client.get(path).text)
    assert loaded
    assert [asset for asset in loaded if client.get(asset).status_code != 200] == []


def test_modules_import_what_is_there(client: TestClient) -> None:
    seen, left = set(), ["job.js", "jobs.js", "new_job.js", "compare.js"]
    while left:
        module = left.pop()
        seen.add(module)
        answer = client.get(f"/assets/{module}")
        assert answer.headers["content-type"].startswith("text/javascript"), module
        left += set(re.findall(r'from "\./([a-z_]+\.js)"', answer.text)) - seen - set(left)
    assert {"api.js", "words.js", "chart.js", "memory_bar.js"} <= seen


def test_the_root_leads_to_the_jobs(client: TestClient) -> None:
    assert client.get("/").headers["location"] == "/jobs"


def test_names_from_an_address_are_text(client: TestClient) -> None:
    evil = '"><script>alert(1)</script>'
    for path in (f"/jobs/{evil.replace('/', '')}", f"/jobs/compare?a={evil}", f"/login?next={evil}"):
        assert "<script>alert" not in client.get(path).text


def test_a_wrong_token_is_told_and_the_way_back_kept(client: TestClient) -> None:
    page = client.get("/login?wrong=1&next=/jobs/mine").text
    assert 'role="alert"' in page
    assert 'name="next" value="/jobs/mine"' in page
    assert 'role="alert"' not in client.get("/login").text


@pytest.mark.parametrize("file", ["nothing.js", "..%2Fpages.py", "%2e%2e/pages.py"])
def test_no_other_file_is_served(client: TestClient, file: str) -> None:
    assert client.get(f"/assets/{file}").status_code == 404


@pytest.mark.parametrize("file", ["style.css", "plotly.min.js"])
def test_an_asset_that_has_not_changed_is_not_sent_again(client: TestClient, file: str) -> None:
    first = client.get(f"/assets/{file}")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(f"/assets/{file}", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


def test_the_words_keep_their_order(client: TestClient) -> None:
    found = re.search(r'<script type="application/json" id="words">(.*?)</script>', client.get("/jobs").text)
    assert found is not None
    names = [field for field, _ in json.loads(found[1])["headings"]]
    assert names[:3] == ["sharding", "precision", "micro_batch_size"]
