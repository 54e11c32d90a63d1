"""Whatever is typed: one plain sentence on stderr, the right exit code, and nothing left behind."""

import json
import re
from pathlib import Path

import pytest
from cli_support import NO_SAMPLER, TINY, Cli, Ended, files_in, run_process

TUNE = ("tune", "tiny.json", "--gpus", "cpu:2", "--executor", "local")


def refused(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended
    for word in words:
        assert word in ended.sentence


@pytest.fixture
def nothing_is_left(cli: Cli, home: Path):
    """Neither a job nor a file is there afterwards that was not there before."""
    before = files_in(home)
    yield
    assert cli("jobs", "--json").json == {"jobs": []}
    assert files_in(home) == before


@pytest.fixture
def files(home: Path):
    """Files that are not what they are taken for."""
    (home / "folder").mkdir()
    (home / "empty.json").write_text("{}")
    (home / "list.json").write_text("[]")
    (home / "nothing.json").write_text("")
    (home / "cut.json").write_text('{"model_type": "llama"')
    (home / "oversized.json").write_text(json.dumps(TINY) + " " * 2_000_000)
    (home / "deep.json").write_text('{"model_type":"llama","a":' + "[" * 100_000 + "]" * 100_000 + "}")
    (home / "latin.json").write_bytes(b'{"model_type": "\xff"}')
    (home / "absurd.json").write_text(json.dumps(TINY | {"hidden_size": 10**12}))
    (home / "negative.json").write_text(json.dumps(TINY | {"num_hidden_layers": -1}))
    (home / "path.json").write_text(json.dumps(TINY | {"model_type": "../../evil"}))
    (home / "broken.yaml").write_text("name: x\ndimensions: [1, 2\n")
    (home / "text.yaml").write_text("just text\n")
    (home / "field.yaml").write_text("dimensions: {micro_batch: [1, 2]}\n")
    (home / "value.yaml").write_text("dimensions: {precision: [bf17]}\n")
    (home / "many.yaml").write_text("dimensions: {micro_batch_size: {min: 1, max: 1000000000000}}\n")
    (home / "no_database.db").write_text("this is no database, " * 100)
    (home / "factories.py").write_text("def raises():\n    raise RuntimeError('no weights for you')\n")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("lama-3.1-8b", ["'lama-3.1-8b' is no preset", "'llama-3.1-8b'"]),
        ("🦙", ["'🦙' is no preset"]),
        ("folder", ["cannot read folder/config.json"]),
        ("/dev/zero", ["/dev/zero is not a regular file"]),
        ("empty.json", ['empty.json needs a "model_type"']),
        ("list.json", ["list.json must hold a JSON object"]),
        ("nothing.json", ["nothing.json: not JSON"]),
        ("cut.json", ["cut.json: not JSON"]),
        ("oversized.json", ["oversized.json is larger than 1 MiB"]),
        ("deep.json", ["deep.json: nested too deeply"]),
        ("latin.json", ["latin.json is not UTF-8 text"]),
        ("absurd.json", ["hidden_size in absurd.json", "1,048,576"]),
        ("negative.json", ["num_hidden_layers in negative.json", "-1"]),
        ("path.json", ['path.json needs a "model_type"']),
        ("factories:raises", ["factories:raises", "no weights for you"]),
        ("factories:nosuch", ["factories:nosuch", "'nosuch'"]),
    ],
)
@pytest.mark.usefixtures("files", "nothing_is_left")
def test_what_is_no_model_is_refused(cli: Cli, model: str, words: list[str]):
    refused(cli("tune", model, "--gpus", "cpu:2"), 2, *words)


def test_code_from_elsewhere_in_a_config_is_left_out(cli: Cli, home: Path):
    """What would have to run or be fetched is not there for the probe to find."""
    (home / "evil.py").write_text("raise SystemExit('this ran')")
    hostile = {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "trust_remote_code": True}
    (home / "hostile.json").write_text(json.dumps(TINY | hostile))
    ended = cli("tune", "hostile.json", "--gpus", "cpu:1", *NO_SAMPLER)
    refused(ended, 2, "unknown sampler 'nosuch'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "H10:8"], ["'H10'", "'H100'"]),
        (["--gpus", "H100:0"], ["1 to", "not 0"]),
        (["--gpus", "H100:99999999999999999999"], ["1 to"]),
        (["--gpus", "cpu:two"], ["'cpu:two' names no GPUs"]),
        (["--gpus", ""], ["'' names no GPUs"]),
        (["--gpus", "nosuch.yaml"], ["cannot read nosuch.yaml"]),
        (["--gpus", "tiny.json"], ["tiny.json: unknown field 'model_type'"]),
        (["--ceiling", "200%"], ["'200%'"]),
        (["--ceiling", "-5GiB"], ["'-5GiB' is not a size", "22GiB"]),
        (["--ceiling", "0"], ["'0'"]),
        (["--ceiling", "22GiBs"], ["'GiBs' is not a unit"]),
        (["--ceiling", "5000TiB"], ["--ceiling 5000TiB is more than"]),
        (["--headroom", "100%"], ["--headroom '100%'"]),
        (["--headroom", "nan"], ["--headroom 'nan'"]),
        (["--global-batch-size", "0"], ["'--global-batch-size'"]),
        (["--global-batch-size", "9" * 30], ["global_batch_size"]),
        (["--global-batch-tolerance", "2"], ["--global-batch-tolerance '2'"]),
        (["--set", "micro_batch_size"], ["--set", "'micro_batch_size' sets nothing", "field=value"]),
        (["--set", "=1"], ["--set", "unknown field ''"]),
        (["--set", "precison=bf16"], ["unknown field 'precison'", "'precision'"]),
        (["--set", "precision=bf17"], ["precision", "'bf17'", "'bf16'"]),
        (["--set", "precision="], ["precision", "bf16_pure"]),
        (["--set", "micro_batch_size=0"], ["micro_batch_size", "0"]),
        (["--set", "micro_batch_size=1.."], ["micro_batch_size", "'1..'"]),
        (["--set", "micro_batch_size=1,,2"], ["micro_batch_size", "''"]),
        (["--set", f"micro_batch_size={'9' * 30}"], ["micro_batch_size"]),
        (["--set", "compile=perhaps"], ["compile", "'perhaps'"]),
        (["--set", "loss=eager", "--set", "loss=chunked"], ["--set: loss is set twice"]),
        (["--space", "cpus"], ["'cpus'", "'cpu'"]),
        (["--space", ""], ["--space is empty"]),
        (["--space", "folder"], ["'folder'"]),
        (["--space", "broken.yaml"], ["broken.yaml", "YAML", "line 3"]),
        (["--space", "text.yaml"], ["text.yaml", "mapping"]),
        (["--space", "field.yaml"], ["field.yaml", "'micro_batch'", "'micro_batch_size'"]),
        (["--space", "value.yaml"], ["value.yaml", "'bf17'", "'bf16'"]),
        (["--space", "many.yaml"], ["many.yaml", "micro_batch_size"]),
        (["--space", "a" * 5000], ["no space and no file"]),
        (["--baseline", "micro_batch=3"], ["--baseline", "'micro_batch'", "'micro_batch_size'"]),
        (["--baseline", "micro_batch_size=3,4"], ["--baseline", "'4' sets nothing", "one value each"]),
        (["--baseline", "loss=eager,loss=eager"], ["--baseline: loss is set twice"]),
        (["--baseline", ""], ["--baseline is empty"]),
        (["--baseline", "nosuch.json"], ["--baseline nosuch.json", "field=value"]),
        (["--baseline", "folder"], ["--baseline folder", "field=value"]),
        (["--baseline", "list.json"], ["--baseline list.json must hold a JSON object"]),
        (["--baseline", "tiny.json"], ["--baseline tiny.json: unknown field 'model_type'"]),
        (["--baseline", "deep.json"], ["--baseline deep.json is larger than"]),
        (["--baseline", "/dev/zero"], ["--baseline /dev/zero is larger than"]),
        (["--baseline", "attention=flash"], ["the baseline cannot run here"]),
        (["--name", "🦙"], ["--name '🦙'", "letters, digits"]),
        (["--name", "../../etc/passwd"], ["--name '../../etc/passwd'", "letters, digits"]),
        (["--name", "-x"], ["--name '-x'"]),
        (["--name", "a" * 64], ["--name", "63"]),
        (["--name", ""], ["--name is empty"]),
        (["--trials", "0"], ["'--trials'", "1"]),
        (["--trials", "many"], ["'--trials'"]),
        (["--trials", "9" * 30], ["trials"]),
        (["--minutes", "-1"], ["minutes", "greater than 0"]),
        (["--minutes", "nan"], ["minutes", "nan"]),
        (["--minutes", "soon"], ["'--minutes'"]),
        (["--seed", "-1"], ["'--seed'"]),
        (["--sampler", "TPE "], ["unknown sampler 'TPE '"]),
        (["--sampler", "randon"], ["unknown sampler 'randon'", "'random'"]),
        (["--executor", "dask"], ["'--executor'", "'dask'", "'ray', 'local'"]),
        (["--storage", ""], ["database"]),
        (["--storage", "folder"], ["sqlite:///autotune.db"]),
        (["--storage", "sqlite:///folder"], ["folder cannot be used"]),
        (["--storage", "sqlite:///nosuch/jobs.db"], ["nosuch/jobs.db cannot be used"]),
        (["--storage", "sqlite:///no_database.db"], ["no_database.db cannot be used", "not a database"]),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/jobs"], ["jobs on 127.0.0.1:1", "refused"]),
        (["--storage", "mysql://me:secret@there/jobs"], ["'mysql'", "PostgreSQL"]),
        (["--nme", "x"], ["--nme", "--help"]),
        (["--set"], ["--set", "--help"]),
        (["llama-20m"], ["llama-20m", "--help"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
@pytest.mark.usefixtures("files", "nothing_is_left")
def test_a_bad_option_is_named(cli: Cli, options: list[str], words: list[str]):
    """Of an option given twice the last one counts."""
    complete = options == ["--set"] or {"--sampler", "--storage"} & set(options)
    ended = cli(*TUNE, *options, *(() if complete else NO_SAMPLER))
    assert "secret" not in ended.err
    refused(ended, 2, *words)


@pytest.mark.usefixtures("nothing_is_left")
def test_gpus_that_are_not_here_point_at_plan(cli: Cli):
    refused(cli(*TUNE, "--gpus", "H100:8"), 2, "0 of the 8 GPUs", "autotune plan")


@pytest.mark.usefixtures("nothing_is_left")
def test_gpus_that_no_ray_worker_has_point_at_plan(home: Path):
    ended = run_process(home, "tune", "tiny.json", "--gpus", "H100:8")
    refused(ended, 2, "8 GPU", "autotune plan")


@pytest.mark.usefixtures("nothing_is_left")
def test_a_ceiling_below_the_model_names_the_smallest_that_would_do(cli: Cli):
    ended = cli("tune", "llama-20m", "--gpus", "cpu:2", "--ceiling", "100MiB", *NO_SAMPLER)
    refused(ended, 3, "nothing fits under 100 MiB", "--ceiling")
    least_bytes = int(re.search(r"([0-9]+) bytes", ended.sentence)[1])
    enough = cli("tune", "llama-20m", "--gpus", "cpu:2", "--ceiling", least_bytes, *NO_SAMPLER)
    refused(enough, 2, "unknown sampler")


@pytest.mark.usefixtures("nothing_is_left")
def test_what_no_device_here_can_run_is_bad_input(cli: Cli):
    ended = cli(*TUNE, "--set", "attention=flash", *NO_SAMPLER)
    refused(ended, 2, "flash", "allow other values of attention with --set")


@pytest.mark.parametrize("gpus", ["auto", "cpu:2"])
@pytest.mark.usefixtures("nothing_is_left")
def test_a_cluster_that_is_not_there_is_bad_input(cli: Cli, gpus: str):
    words = ("--executor", "ray", "--ray-address", "127.0.0.1:1")
    refused(cli("tune", "tiny.json", "--gpus", gpus, *words), 2, "Ray", "127.0.0.1:1")


@pytest.mark.parametrize("command", ["show", "resume", "trials", "export"])
@pytest.mark.usefixtures("nothing_is_left")
def test_reading_creates_no_database(cli: Cli, command: str):
    options = ["--to", "torchrun", "--output", "out"] if command == "export" else []
    refused(cli(command, "job", *options), 2, "no job named 'job'", "no jobs yet")
    assert "no job in this database yet" in cli("jobs").out


@pytest.mark.usefixtures("recorded")
def test_a_name_in_use_is_kept_for_the_job_that_has_it(cli: Cli):
    before = cli("show", "recorded", "--json").json
    refused(cli(*TUNE, "--name", "recorded"), 2, "'recorded'", "autotune resume recorded")
    assert cli("show", "recorded", "--json").json == before


@pytest.mark.parametrize("command", ["show", "resume", "trials", "export"])
@pytest.mark.usefixtures("recorded")
def test_an_unknown_job_names_the_nearest(cli: Cli, command: str):
    options = ["--to", "torchrun", "--output", "out"] if command == "export" else []
    refused(cli(command, "recoded", *options), 2, "'recoded'", "'recorded'")


@pytest.mark.parametrize("name", ["", "🦙", "a' OR 1=1 --", "x" * 5000])
@pytest.mark.usefixtures("nothing_is_left")
def test_a_name_that_no_job_can_have_is_just_unknown(cli: Cli, name: str):
    refused(cli("show", name), 2, "no job")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "deepspedd", "--output", "out"], ["'deepspedd'", "'deepspeed'"]),
        (["--to", "deepspeed", "--output", "tiny.json"], ["cannot export to tiny.json"]),
        (["--to", "deepspeed", "--output", "/proc/nosuch"], ["cannot export to /proc/nosuch"]),
        (["--to", "deepspeed"], ["--output"]),
        (["--output", "out"], ["--to"]),
    ],
)
@pytest.mark.usefixtures("recorded")
def test_an_export_that_cannot_be_writes_nothing(cli: Cli, home: Path, options: list[str], words: list[str]):
    before = files_in(home)
    refused(cli("export", "recorded", *options), 2, *words)
    assert files_in(home) == before


@pytest.mark.usefixtures("recorded")
def test_a_job_without_a_recommendation_has_nothing_to_export(cli: Cli, home: Path):
    before = files_in(home)
    refused(
        cli("export", "hopeless", "--to", "torchrun", "--output", "out"),
        4,
        "job 'hopeless' has no recommendation: nothing could be measured",
        "scripted non_finite",
    )
    assert files_in(home) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tuna"], ["'tuna'", "'tune'"]),
        (["show"], ["NAME"]),
        (["models", "extra"], ["extra"]),
        (["spaces", "nosuch"], ["'nosuch'", "cpu"]),
        (["spaces", "text.yaml"], ["text.yaml", "mapping"]),
        (["spaces", "a" * 5000], ["no space and no file"]),
        (["spaces", "--for", "llama-3.1-8b"], ["name it", "spaces NAME --for MODEL"]),
        (["spaces", "fsdp", "--for", "llama-3.1-8c", "--gpus", "cpu:2"], ["llama-3.1-8b"]),
        (["show", "job", "--png"], ["--plots DIR --png"]),
        (["show", "\udcff"], ["UTF-8"]),
        (["jobs", "--storage", "sqlite:///folder"], ["folder cannot be used"]),
    ],
    ids=lambda value: " ".join(value)[:40].encode("ascii", "replace").decode(),
)
@pytest.mark.usefixtures("files", "nothing_is_left")
def test_other_commands_are_as_plain(cli: Cli, words: list[str], said: list[str]):
    refused(cli(*words), 2, *said)


def test_a_fault_of_ours_is_a_sentence_too(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def fails() -> None:
        raise ZeroDivisionError("of all things\nand more")

    monkeypatch.setattr("autotune.report.listings.known_models", fails)
    refused(cli("models"), 1, "ZeroDivisionError: of all things", "AUTOTUNE_LOG_LEVEL=debug")
    monkeypatch.setenv("AUTOTUNE_LOG_LEVEL", "debug")
    with pytest.raises(ZeroDivisionError):
        cli("models")
