"""Wrong input of every kind: exit code non-zero, no traceback, at most twelve lines; the thing at fault is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfcorrect.chat import EMBEDDED
from selfcorrect.cli import main

RUN = ["--run", "{r}"]
GOOD = '{"question": "What is 2+2?", "gold": "4"}\n'
LIKELIHOODS = '{"doc_id": 0, "doc": {}, "target": 1, "resps": [[["-12.3", "False"]], [["-2.1", "True"]]]}\n'

FILES = {
    "good.jsonl": GOOD * 3,
    "torn.jsonl": GOOD + '{"question": \n',
    "schema.jsonl": '{"frage": "a", "antwort": "1"}\n',
    "empty.jsonl": "",
    "list.jsonl": "[1, 2]\n",
    "ungradable.jsonl": '{"question": "a", "gold": "\\\\frac{"}\n',
    "likelihoods.jsonl": LIKELIHOODS,
    "nolog.jsonl": '{"doc_id": 0}\n',
    "nan.jsonl": '{"question": "1+1?", "gold": NaN}\n',
    "pairs.jsonl": '{"response": 4, "gold": "4"}\n',
    "rows.jsonl": '{"id": "r1"}\n',
    "torn.yaml": "row: [a\n",
    "list.yaml": "- a\n- b\n",
    "key.yaml": "rwo: mine\n",
    "launch.yaml": "a: 1\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wrong files, spoilt models and a run of a user's."""
    here = tmp_path_factory.mktemp("wrong")
    for name, text in FILES.items():
        (here / name).write_text(text)
    (here / "picture.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (here / "latin.jsonl").write_bytes(b'{"id": "r1"}\n{"id": "caf\xe9"}\n')
    (here / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (here / "binary.jsonl").write_bytes(bytes(range(256)) * 4)
    (here / "latin.yaml").write_bytes("row: caf\xe9".encode("latin-1"))
    (here / "deep.yaml").write_text("row: " + "[" * 2_000)
    (here / "a-file").write_text("x")
    (here / "nothing-in-it").mkdir()
    ift = Path(shutil.copytree(EMBEDDED, here / "mine" / "checkpoints" / "ift"))
    for name in ("cut", "wider", "no-config", "no-tokenizer"):
        shutil.copytree(ift, here / name)
    weights = here / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    config = json.loads((ift / "config.json").read_text())
    (here / "wider" / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * config["hidden_size"]}))
    (here / "no-config" / "config.json").unlink()
    for file in (here / "no-tokenizer").glob("tokenizer*"):
        file.unlink()
    return here


def few(*words: str) -> list[str]:
    return ["eval", "embedded", "problems.count=1", "max_tokens=8", "method=single-turn", *words, *RUN]


CASES = [
    # commands and options
    (["evla"], "evla"),
    (["train", "sftt"], "sftt"),
    (["gen", "embedded", "--exprt", "verl"], "--exprt"),
    (["grade", "4", "4", "4"], "4"),
    (["grade", "4"], "give RESPONSE and GOLD"),
    (["grade", "--explian", "4", "4"], "--explian"),
    (["grade", "--source", "foo", "4", "4"], "'foo'"),
    (["grade", "--source", "gsm8", "4", "4"], 'did you mean "gsm8k"'),
    (["grade", "4", "4", "--out", "x.jsonl"], "--out goes with --jsonl"),
    (["grade", "--jsonl", "{d}/none.jsonl"], "none.jsonl"),
    (["grade", "--jsonl", "{d}/torn.jsonl"], "torn.jsonl:1"),
    (["grade", "--jsonl", "{d}/pairs.jsonl"], "pairs.jsonl:1"),
    (["grade", "--jsonl", "{d}/list.jsonl"], "list.jsonl:1"),
    (["grade", "--jsonl", "{d}/binary.jsonl"], "binary.jsonl"),
    (["grade", "--jsonl", "{d}/picture.jsonl"], "a PNG image"),
    (["compare", "{d}/picture.jsonl", "{d}/good.jsonl"], "a PNG image"),
    (["grade", "--jsonl", "{d}/good.jsonl", "--out", "{d}/no/folder/out.jsonl"], "no/folder/out.jsonl"),
    (["grade", "--jsonl", "{d}/good.jsonl", "--out", "{d}"], "--out"),
    (["demo", "--seed", "abc"], "--seed"),
    (["doctor", "--nothing"], "--nothing"),
    # recipes and overrides
    (["gen", "embeded", *RUN], 'did you mean "embedded"'),
    (["gen", "/nowhere/recipe.yaml", *RUN], "/nowhere/recipe.yaml"),
    (["gen", "{d}/torn.yaml", *RUN], "torn.yaml is not YAML"),
    (["gen", "{d}/latin.yaml", *RUN], "latin.yaml:1: not UTF-8"),
    (["gen", "{d}/deep.yaml", *RUN], "deep.yaml is not YAML"),
    (["eval", "{d}/list.yaml", *RUN], "list.yaml"),
    (["eval", "{d}/key.yaml", *RUN], "unknown key 'rwo'"),
    (["gen", "embedded", "atempts=3", *RUN], "override atempts=3"),
    (["gen", "embedded", "attempts=many", *RUN], "override attempts=many"),
    (["gen", "embedded", "attempts=0", *RUN], "attempts"),
    (["gen", "embedded", "quota.d9=3", *RUN], "'d9'"),
    (["gen", "embedded", "schedule=adaptve", *RUN], 'did you mean "adaptive"'),
    (["gen", "embedded", "attempts=3", "4", *RUN], "expected key=value, got '4'"),
    (["gen", "embedded", "--export", "verll", *RUN], "verll"),
    # problems
    (few("problems.source={d}/none.jsonl"), "none.jsonl"),
    (few("problems.source={d}/torn.jsonl"), "torn.jsonl:2"),
    (few("problems.source={d}/schema.jsonl"), "schema.jsonl"),
    (few("problems.source={d}/empty.jsonl"), "empty.jsonl"),
    (few("problems.source={d}/ungradable.jsonl"), "ungradable.jsonl"),
    (few("problems.source={d}/binary.jsonl"), "holds zero bytes and is not UTF-16"),
    (few("problems.source={d}/picture.jsonl"), "a PNG image"),
    (few("problems.source={d}/nan.jsonl"), "all 1 rows were dropped. Give them a question and a reference answer"),
    (few("problems.source={d}/nothing-in-it"), "nothing-in-it"),
    (few("problems.source=gsm8kk"), "gsm8kk"),
    (few("problems.split=tset"), "tset"),
    (few("problems.count=-1"), "count"),
    (few("problems.where.colour=blue"), "colour"),
    (few("problems.source={d}/good.jsonl", "problems.offset=9"), "after the first 9"),
    # models
    (few("engine.model={d}/mine/checkpoints/itf"), "mine/checkpoints/ift"),
    (few("engine.model={d}/mine"), "it is a run folder"),
    (few("engine.model={d}/a-file"), "this is a file"),
    (few("engine.model={d}/nothing-in-it"), "no config.json there"),
    (few("engine.model={d}/cut"), "cut off or damaged"),
    (few("engine.model={d}/wider"), "other shapes"),
    (few("engine.model={d}/no-config"), "no config.json there"),
    (few("engine.model={d}/no-tokenizer"), "no-tokenizer': it has weights and no tokenizer"),
    (few("engine.model=no-such-owner/no-such-model"), "no-such-owner/no-such-model"),
    (few("engine.kind=vlm"), 'did you mean "vllm"'),
    (few("engine.kind=openai"), "endpoints"),
    (few("engine.options.max_cached_token=1"), "max_cached_token"),
    (few("engine.device=tpu9"), "tpu9"),
    (few("engine.dtype=float7"), "float7"),
    # evaluation
    (few("method=intrinsc"), 'did you mean "intrinsic"'),
    (few("stop=foo"), "stop"),
    (few("horizon=0"), "horizon=0"),
    (few("max_tokens=0"), "max_tokens=0"),
    (few("max_tokens=99999"), "99999"),
    (few("temperature=-1"), "temperature=-1"),
    (["gen", "embedded", "temperature=.nan", "--dry-run"], "temperature=nan"),
    (["gen", "embedded", "top_p=2", "--dry-run"], "top_p=2"),
    (few("engine.max_batch=0"), "max_batch=0"),
    (few("temperature=1.0", "top_p=2"), "top_p=2"),
    (few("seeds=[0,1]"), "temperature > 0"),
    (few("seeds=[a]"), "seeds"),
    (few("row=../../elsewhere"), "../../elsewhere"),
    (few("method=judged"), "judge.kind"),
    (few("method=self-rewarding", "stop=threshold"), "calibration"),
    (few("method=gold", "stop=never"), "never"),
    (["eval", "calibrate", "problems.split=test", *RUN], "tests nothing"),
    (["eval", "calibrate", "--fit", "plat", *RUN], "plat"),
    (["eval", "compare", "{d}/a", "{d}/b"], "{d}/a"),
    (["eval", "regrade", "{d}/nowhere"], "{d}/nowhere"),
    (["eval", "import", "{d}/none.jsonl", *RUN], "none.jsonl"),
    (["eval", "import", "{d}/nolog.jsonl", *RUN], "nolog.jsonl:1"),
    (["eval", "import", "{d}/likelihoods.jsonl", *RUN], "likelihoods.jsonl:1"),
    (["eval", "import", "{d}/good.jsonl", "--source", "gsm9", *RUN], "'gsm9'"),
    (["eval", "export", "{d}/nowhere"], "{d}/nowhere"),
    # reports
    (["report", "table3", "{d}/nowhere"], "{d}/nowhere"),
    (["report", "table33", "{d}"], "table33"),
    (["report", "figure1", "{d}/mine"], "selfcorrect train grpo"),
    (["report", "html", "{d}/nowhere"], "{d}/nowhere"),
    # training
    (["train", "sft", *RUN], "selfcorrect gen embedded --run"),
    (["train", "orm", *RUN], "selfcorrect gen embedded --run"),
    (["train", "grpo", *RUN], "selfcorrect gen embedded --run"),
    (["train", "dpo", "embedded-mdpo", *RUN], "selfcorrect gen embedded-pairs --run"),
    (["train", "sft", "data={d}/rows.jsonl", *RUN], "rows.jsonl"),
    (["train", "sft", "data={d}/torn.jsonl", *RUN], "torn.jsonl"),
    (["train", "sft", "data=good.jsonl", *RUN], "for yours give {d}/good.jsonl"),
    (["train", "sft", "embedded-two-turn-sft", *RUN], "with format=two-turn"),
    (["train", "sft", "data={d}/latin.jsonl", *RUN], "latin.jsonl:2: not UTF-8 (byte 0xe9"),
    (["train", "sft", "data={d}/picture.jsonl", *RUN], "a PNG image"),
    (["train", "sft", "{d}/latin.yaml", *RUN], "latin.yaml:1: not UTF-8 (byte 0xe9"),
    (["train", "sft", "data={d}/empty.jsonl", *RUN], "empty.jsonl"),
    (["train", "sft", "model={d}/cut", "data={d}/good.jsonl", *RUN], "good.jsonl"),
    (["train", "sft", "batch_rows=0", *RUN], "batch_rows"),
    (["train", "sft", "learning_rate=.nan", *RUN], "learning_rate: expected a number, got nan"),
    (["train", "sft", "learning_rate=-1e-4", *RUN], "learning_rate=-0.0001: expected a number of 0 or more"),
    (["train", "grpo", "max_grad_norm=-1", "--dry-run", *RUN], "max_grad_norm=-1.0: expected a number of 0 or more"),
    (["train", "sft", "precision=fp8", *RUN], "precision"),
    (["train", "sft", "lora.rank=0", *RUN], "rank"),
    (["train", "grpo", "steps=0", *RUN], "steps"),
    (["train", "sft", "--launch", "zero22", *RUN], 'did you mean "zero2"'),
    (["train", "sft", "--launch", "{d}/launch.yaml", *RUN], "launch.yaml"),
    (["train", "sft", "--show-mask", *RUN], "selfcorrect gen embedded --run"),
    (["train", "sft", "qwen2.5-math-7b-sft", *RUN], "selfcorrect gen qwen2.5-math-7b --run"),
    (["train", "sft", "smollm2-sft", "--dry-run", *RUN], ".models/smollm2"),
    (["gen", "qwen2.5-math-7b", "--dry-run", *RUN], "hub"),
    (["eval", "math500", "--dry-run", *RUN], "hub"),
    # the run folder
    (["eval", "embedded", "problems.count=1", "--run", "{d}/a-file"], "a-file"),
    (["gen", "embedded", "--run", "{d}/a-file/x"], "a-file"),
]


@pytest.mark.parametrize(("words", "named"), CASES, ids=[" ".join(words)[:70] for words, _ in CASES])
def test_wrong_input_is_one_short_message(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    tmp_path: Path,
    words: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as left:
        main([word.replace("{d}", str(folder)).replace("{r}", str(tmp_path / "run")) for word in words])
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    squeezed = "".join(printed.replace("│", "").split())
    assert left.value.code not in (0, None), printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) <= 12, printed
    assert "".join(named.replace("{d}", str(folder)).split()) in squeezed, printed
    assert not list(tmp_path.rglob("DONE"))


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 90
    assert len({" ".join(words) for words, _ in CASES}) == len(CASES)
