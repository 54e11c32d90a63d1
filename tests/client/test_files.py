"""Files that the client takes from a server."""

import io
import zipfile
from pathlib import Path

import httpx2
import pytest
from scripted import Server, problem

import autotune
from autotune.client import client
from autotune.errors import BadInput, MachineFault, NothingMeasured


def archive(files: dict[str, str]) -> httpx2.Response:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in files.items():
            opened.writestr(name, text)
    return httpx2.Response(200, content=buffer.getvalue(), headers={"Content-Type": "application/zip"})


def test_files_are_taken(server: Server, asking: autotune.Client, tmp_path: Path):
    server.says(archive({"job-deepspeed/ds_config.json": "{}", "job-deepspeed/launch.sh": "exit"}))
    written = asking.download("job", "deepspeed", tmp_path / "a" / "b")
    assert server.paths == ["GET /autotune/v1/jobs/job/exports/deepspeed"]
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        "a/b/ds_config.json",
        "a/b/launch.sh",
    ]
    assert written[0].read_text() == "{}"
    assert [bool(path.stat().st_mode & 0o100) for path in written] == [False, True]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (archive({"job/..": "x"}), MachineFault),
        (archive({"job/.profile": "x"}), MachineFault),
        (archive({"job/a b": "x"}), MachineFault),
        (archive({"job/large": "0" * (client.MOST_EXPORT_BYTES + 1)}), MachineFault),
        (httpx2.Response(200, content=b"no archive"), MachineFault),
        (problem("urn:autotune:problem:nothing-measured", 409), NothingMeasured),
    ],
)
def test_files_that_are_none_are_not(
    response: httpx2.Response, kind: type[Exception], server: Server, asking: autotune.Client, tmp_path: Path
):
    server.says(response)
    with pytest.raises(kind):
        asking.download("job", "deepspeed", tmp_path / "files")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(server: Server, asking: autotune.Client, tmp_path: Path):
    (tmp_path / "file").write_text("")
    server.says(archive({"job/launch.sh": "x"}))
    with pytest.raises(BadInput, match="choose another folder"):
        asking.download("job", "torchrun", tmp_path / "file")
