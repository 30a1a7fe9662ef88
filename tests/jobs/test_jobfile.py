"""A job file means what SPEC section 11 says, and all of its mistakes are told at once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from model_folders import make_model

from kltui.errors import UsageError
from kltui.jobs.jobfile import JobFile, load_job, parse_job
from kltui.jobs.plan import make_plan

# The example of the public contract, whole.
CONTRACT = """
workspace = "pythia"
[corpus]
source = "texts.json"
chunk = false
max_bytes = 1024
min_bytes = 256
sample = 10000
seed = 42
[[models]]
path = "runs/tiny"
run = "tiny"
seed = 1
size = "tiny"
type = "gpt_neox"
parent = ""
[[models]]
repo = "EleutherAI/pythia-410m"
revisions = ["step{0,1,2,4,8}", "step{1000..143000..1000}"]
quantization = ["none", "bnb-8bit", "bnb-fp4"]
[[models]]
path = "runs/lora"
base = "runs/tiny"
[[models]]
repo = "OWNER/NAME-GGUF"
files = ["*Q4_K_M*", "*Q8_0*"]
parent = "mine"
[[models]]
endpoint = "http://127.0.0.1:8000/v1"
model = "NAME"
tokenizer = "owner/name"
concurrency = 16
api_key_env = ""
[[models]]
preset = "pythia-410m"
[scoring]
device = "auto"
dtype = "float32"
bos = "auto"
overlong = "error"
layers = "none"
tokens = false
batch_tokens = 0
allow_bin = false
[engine]
kind = "local"
workers = 1
[watch]
alert_loss_se = 5.0
alert_kl_ratio = 5.0
settled_below = 0.01
command = ["notify", "me"]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(text)
    return path


def test_the_contract_s_example_is_read_with_absolute_paths(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, CONTRACT))
    assert job.workspace == str(tmp_path / "pythia")
    assert job.corpus.source == str(tmp_path / "texts.json")
    assert job.models[0].path == str(tmp_path / "runs/tiny")
    assert job.models[1].quantization == ("none", "bnb-8bit", "bnb-fp4")
    assert job.scoring.settings().layers == "none"


def test_what_is_written_back_is_the_same_job(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, CONTRACT), ["scoring.layers=[4,0]"])
    again = JobFile.model_validate(tomllib.loads(job.to_toml()))
    assert again == job
    assert again.digest() == job.digest()
    assert job.scoring.settings().layers == (0, 4)


def test_digest_ignores_only_what_cannot_change_the_request(tmp_path: Path) -> None:
    path = write(tmp_path, CONTRACT)
    same = [
        load_job(path, [o]).digest()
        for o in (
            "engine.workers=2",
            "scoring.device=cpu",
            "scoring.batch_tokens=99",
            "engine.device_map=auto",
        )
    ]
    assert set(same) == {load_job(path).digest()}
    for other in ("scoring.dtype=float16", "corpus.seed=1", "models.0.run=x", "scoring.bos=never"):
        assert load_job(path, [other]).digest() != load_job(path).digest()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("corpus.sample=all", "corpus.sample: should be a whole number (found 'all')"),
        ("corpus.sample=1.5", "corpus.sample: should be a whole number (found 1.5)"),
        ("corpus.sample=0", "corpus.sample: should be greater than or equal to 1 (found 0)"),
        ("corpus.chunk=maybe", "corpus.chunk: should be true or false (found 'maybe')"),
        ("watch.alert_loss_se=x", "watch.alert_loss_se: should be a number (found 'x')"),
        ("models.0.path=3", "models[0].path: should be text in quotes (found 3)"),
        ("scoring=fast", "scoring: should be a table below a line [scoring] (found 'fast')"),
        ('models=["x"]', "models[0]: should be a table below a line [[models]] (found 'x')"),
        ("scoring.dtype=16", "scoring.dtype: should be 'float32', 'float16'"),
        ('scoring.layers=["a"]', "scoring.layers[0]: should be a whole number (found 'a')"),
    ],
)
def test_a_wrong_value_is_told_in_the_words_of_a_job_file(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_job(write(tmp_path, CONTRACT), [override])
    assert said in caught.value.message
    assert "Input should" not in caught.value.message and "Table" not in caught.value.message


def test_a_spread_model_is_a_way_of_running(tmp_path: Path) -> None:
    path = write(tmp_path, CONTRACT)
    assert load_job(path).settings().device_map == "none"
    assert load_job(path, ["engine.device_map=balanced"]).settings().device_map == "balanced"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["engine.device_map=all"], "engine.device_map: should be 'none', 'auto', 'balanced' or"),
        (["engine.device_map=auto", "engine.workers=2"], "engine: device_map gives all GPUs to one worker"),
        (["engine.device_map=auto", "engine.kind=ray"], "engine: device_map needs kind"),
        (["engine.device_map=auto", "scoring.device=cuda:1"], 'but scoring.device is "cuda:1"'),
        (["engine.device_map=auto", "scoring.device=cpu"], "which is impossible for quantised weights"),
    ],
)
def test_what_a_spread_model_does_not_go_with(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_job(write(tmp_path, CONTRACT), overrides)
    assert said in caught.value.message


def test_every_mistake_is_told_with_its_key(tmp_path: Path) -> None:
    text = """
workspce = "x"
[corpus]
source = 3
smaple = 2
[[models]]
[[models]]
path = "a"
revisions = ["step1"]
[scoring]
dtype = "float15"
layers = "some"
device = "gpu"
"""
    with pytest.raises(UsageError) as caught:
        load_job(write(tmp_path, text))
    said = caught.value.message
    assert "9 mistakes" in said
    for piece in (
        "- workspace: missing",
        "- workspce: unknown key, did you mean 'workspace'?",
        "- corpus.smaple: unknown key, did you mean 'sample'?",
        "- corpus.source: ",
        "- models[0]: give one of path",
        "- models[1]: revisions need repo",
        "- scoring.dtype: ",
        "- scoring.layers: ",
        "- scoring.device: ",
    ):
        assert said.count(piece) == 1, (piece, said)
    assert "literal" not in said and "pattern" not in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("nonsense", "expected key=value"),
        ("models.9.path=x", "models has 6 entries, numbered from 0"),
        ("interpolations.5.run=x", "interpolations has 1 entry, numbered from 0"),
        ("workspace.deep=x", "not name a key"),
        ("=x", "expected"),
    ],
)
def test_bad_overrides_are_named(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_job(write(tmp_path, CONTRACT + '[[interpolations]]\nbase = "tiny"\n'), [override])


def test_overrides_are_toml_values_or_plain_words(tmp_path: Path) -> None:
    job = load_job(
        write(tmp_path, CONTRACT),
        ["scoring.dtype=float16", "corpus.sample=7", "scoring.tokens=true", 'workspace="a b"'],
    )
    assert (job.scoring.dtype, job.corpus.sample, job.scoring.tokens) == ("float16", 7, True)
    assert job.workspace == str(tmp_path / "a b")


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no job file"):
        load_job(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_job(write(tmp_path, "workspace = pythia"))
    (tmp_path / "latin.toml").write_bytes(b'workspace = "\xe9"')
    with pytest.raises(UsageError, match="UTF-8"):
        load_job(tmp_path / "latin.toml")


def test_one_string_stands_for_a_list_of_one() -> None:
    data = {
        "workspace": "w",
        "corpus": {"source": "demo"},
        "models": [{"repo": "a/b", "revisions": "step1", "quantization": "bnb-fp4"}],
    }
    job = parse_job(data, "job")
    assert (job.models[0].revisions, job.models[0].quantization) == (("step1",), ("bnb-fp4",))
    assert job.resolved(Path("/x")).corpus.source == "demo"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"path": "a", "repo": "b/c"}, "give one of path"),
        ({"preset": "pythia-70m", "endpoint": "http://h/v1"}, "give one of path"),
        ({"path": "a", "revisions": ["x"]}, "revisions need repo or preset"),
        ({"preset": "pythia-70m", "files": ["*.gguf"]}, "files need path or repo"),
        ({"path": "a", "model": "m"}, "need endpoint"),
        ({"endpoint": "127.0.0.1:8000", "model": "m", "tokenizer": "t"}, "the address of a server"),
        ({"endpoint": "ftp://h/v1", "model": "m", "tokenizer": "t"}, "the address of a server"),
        (
            {"endpoint": "http://me:secret@h/v1", "model": "m", "tokenizer": "t"},
            "must not contain a password",
        ),
        ({"endpoint": "http://h/v1", "tokenizer": "t"}, "needs model"),
        ({"endpoint": "http://h/v1", "model": "m"}, "needs tokenizer"),
        (
            {"endpoint": "http://h/v1", "model": "m", "tokenizer": "t", "quantization": "bnb-8bit"},
            "cannot be used with endpoint",
        ),
        ({"endpoint": "http://h/v1", "model": "m", "tokenizer": "t", "api_key_env": "A B"}, "api_key_env"),
    ],
)
def test_a_model_that_cannot_be_meant_is_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_job({"workspace": "w", "corpus": {"source": "demo"}, "models": [table]}, "job")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"corpus": {"source": "a", "sample": True}}, "corpus.sample: true and false are not allowed here"),
        ({"models": [{"path": "a", "seed": False}]}, r"models\[0\].seed: true and false are not allowed"),
        ({"scoring": {"layers": [True]}}, "scoring.layers: true and false are not allowed"),
        ({"models": {"path": "a"}}, r"models: each must be a separate table below a line \[\[models\]\]"),
        ({"models": []}, "models: empty: give at least one"),
        ({"models": [{"path": "a", "tags": "x"}]}, r"tags: should be a list: tags = \[...\] \(found 'x'\)"),
        ({"scoring": {"layers": 3}}, r"or: should be a list: layers = \[...\]"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_named_in_the_words_of_a_job_file(
    table: dict[str, object], said: str
) -> None:
    job = {"workspace": "w", "corpus": {"source": "demo"}, "models": [{"path": "a"}]}
    with pytest.raises(UsageError, match=said):
        parse_job(job | table, "job")


@pytest.mark.parametrize(
    ("corpus", "scoring", "said"),
    [
        ({"source": "a.jsonl", "template": "none"}, {}, "template needs kind"),
        ({"source": "a.jsonl", "kind": "pairs", "chunk": True}, {}, "never cut"),
        ({"source": "demo", "kind": "pairs"}, {}, "no pairs"),
        ({"source": "a.jsonl"}, {"unconditional": True}, "needs corpus.kind"),
    ],
)
def test_keys_of_pairs_go_with_pairs(
    corpus: dict[str, object], scoring: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        parse_job({"workspace": "w", "corpus": corpus, "models": [{"path": "a"}], "scoring": scoring}, "job")


def test_jobs_of_before_keep_their_digest() -> None:
    """Computed by the first release's code."""
    table = {"path": "a", "tokenizer": "x/y"}
    job = parse_job({"workspace": "w", "corpus": {"source": "demo"}, "models": [table]}, "job")
    assert job.digest() == "0d6395ea0452b72156d1845e30258b33480899d1b56054f614eb38d82c09d77b"


def test_what_a_table_says_goes_before_its_preset(tmp_path: Path) -> None:
    table = {"preset": "pythia-70m", "revisions": ["step{0,512}"], "run": "mine", "tags": ["t"]}
    (tmp_path / "texts.json").write_text('["one text"]')
    job = parse_job({"workspace": "w", "corpus": {"source": "texts.json"}, "models": [table]}, "job")
    plan = make_plan(job.resolved(tmp_path))
    assert [c.name for c in plan.checkpoints] == ["mine@0", "mine@512"]
    assert {(c.source.repo, c.size, c.tags) for c in plan.checkpoints} == {
        ("EleutherAI/pythia-70m", "70m", ("t",))
    }


def test_wildcards_mean_what_the_hub_or_the_preset_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.registry.hub.revisions", lambda repo: ["main", "step0", "step5", "step50"])
    models = [
        {"repo": "o/n", "revisions": "all"},
        {"repo": "o/n", "revisions": ["step5*", "step7"], "run": "b"},
        {"preset": "pythia-70m", "revisions": ["step14*"]},
    ]
    (tmp_path / "texts.json").write_text('["one text"]')
    job = parse_job({"workspace": "w", "corpus": {"source": "texts.json"}, "models": models}, "job")
    names = [c.name for c in make_plan(job.resolved(tmp_path)).checkpoints]
    assert names[:7] == ["n", "n@0", "n@5", "n@50", "b@5", "b@7", "b@50"]
    assert names[7:] == [f"pythia-70m@{step}" for step in (14000, *range(140000, 143001, 1000))]


def test_texts_of_unequal_length_are_noted(tmp_path: Path) -> None:
    make_model(tmp_path / "m")
    (tmp_path / "texts.json").write_text(json.dumps(["short text", "a longer one " * 9, "the longest " * 90]))
    path = tmp_path / "job.toml"
    path.write_text('workspace = "ws"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "m"\n')
    (note,) = make_plan(load_job(path)).notes
    assert note.startswith("the texts have 10 to 1080 bytes") and "chunk = true" in note
    cut = make_plan(load_job(path, ["corpus.chunk=true", "corpus.max_bytes=100", "corpus.min_bytes=90"]))
    assert not any("bytes: " in note for note in cut.notes)


def test_lengths_of_chunks_without_chunks_are_noted(tmp_path: Path) -> None:
    make_model(tmp_path / "m")
    (tmp_path / "texts.json").write_text('["one text", "two texts"]')
    path = tmp_path / "job.toml"
    path.write_text(
        'workspace = "ws"\n[corpus]\nsource = "texts.json"\nmax_bytes = 512\n[[models]]\npath = "m"\n'
    )
    (note,) = make_plan(load_job(path)).notes
    assert note.startswith("max_bytes has no effect without chunk = true")
    assert make_plan(load_job(path, ["corpus.chunk=true", "corpus.min_bytes=2"])).notes == ()
    assert make_plan(load_job(path, ["corpus.max_bytes=1024"])).notes == (), "the default may be stated"
