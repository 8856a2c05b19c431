"""The studies that come with the package, as data; read top to bottom.

`SCALES` gives the studies of each scale by the name of their folder. At the scale ``laptop`` the embedded model stands
in for all of the paper's models, at ``gpu`` Qwen2.5-Math-7B is trained in one completion (tables 3 and 4, figure 1) and
two Llama-3 models in the two-turn chat (tables 5, 7 to 10, figure 2), at ``smollm`` SmolLM2-135M learns worded sums.
"""

from __future__ import annotations

from collections.abc import Mapping

from selfcorrect.study.graph import MAIN, Checkpoint, DataSet, Row, Study

RAFT_ROWS = "data/sft/{}.jsonl"
OWN_ROWS = RAFT_ROWS.format("self-rewarding")
PAIRS = "data/preferences/pairs.jsonl"
TWO_TURN = "two-turn"

# --- in one completion (tables 3 and 4) ---------------------------------------------------------------------------


def long_cot_checkpoints(prefix: str, single: tuple[str, ...] = ()) -> tuple[Checkpoint, ...]:
    """Return what table 3 trains, by the recipes ``<prefix>-sft``, ``-dpo``, ``-ppo`` and ``-grpo``."""
    sft, one_turn = f"{prefix}-sft", ("horizon=1", *single)
    return (
        Checkpoint("ift", "sft", sft),
        Checkpoint("raft", "sft", sft, rows=RAFT_ROWS.format("raft")),
        Checkpoint("raft-plus", "sft", sft, rows=RAFT_ROWS.format("raft-plus")),
        Checkpoint("raft-single-turn", "sft", sft, rows=RAFT_ROWS.format("single-turn")),
        Checkpoint("dpo-single-turn", "dpo", f"{prefix}-dpo", one_turn, start="raft-single-turn"),
        Checkpoint(
            "ppo-single-turn",
            "ppo",
            f"{prefix}-ppo",
            (*one_turn, "guard.min_verdict_rate=null"),
            start="raft-single-turn",
        ),
        Checkpoint("dpo", "dpo", f"{prefix}-dpo", start="ift"),
        Checkpoint("ppo", "ppo", f"{prefix}-ppo", start="ift"),
        Checkpoint("grpo", "grpo", f"{prefix}-grpo", start="ift"),
    )


LONG_COT_ROWS = (
    Row("raft-single-turn", "single-turn STaR/RAFT", "single-turn", "raft-single-turn"),
    Row("dpo-single-turn", "single-turn DPO", "single-turn", "dpo-single-turn"),
    Row("ppo-single-turn", "single-turn PPO", "single-turn", "ppo-single-turn"),
    Row("gold", "gold verdict", "gold"),
    Row("intrinsic", "intrinsic self-correction", "intrinsic"),
    Row("asked", "asked for each part", "asked"),
    Row("raft", "STaR/RAFT for self-correction", "intrinsic", "raft"),
    Row("raft-plus", "STaR/RAFT+ for self-correction", "intrinsic", "raft-plus"),
    Row("ift", "self-rewarding IFT", "self-rewarding", "ift"),
    Row("dpo", "self-rewarding IFT + DPO", "self-rewarding", "dpo"),
    Row("dpo-iteration-2", "DPO iteration 2", "self-rewarding", "dpo/iteration-2"),
    Row("ppo", "self-rewarding IFT + PPO", "self-rewarding", "ppo"),
    Row("grpo", "self-rewarding IFT + GRPO", "self-rewarding", "grpo"),
)
TABLE3 = tuple(row.name for row in LONG_COT_ROWS if row.name != "dpo-iteration-2")
TABLE4 = ("ift", "ppo", "dpo-iteration-2", "dpo")

# --- controls -----------------------------------------------------------------------------------------------------

CONTROL_DATA = (DataSet("longer", "embedded-longer"),)
CONTROL_CHECKPOINTS = (
    Checkpoint("ift-longer", "sft", "embedded-sft-longer", data="longer", rows=OWN_ROWS),
    Checkpoint("random", "grpo", "embedded-grpo", ("steps=20", "reward={correctness: 0, random: 1}"), start="ift"),
    Checkpoint("grpo-kl", "grpo", "embedded-grpo-kl", start="ift"),
    Checkpoint("hacked", "grpo", "embedded-hacked", start="ift"),
)
CONTROL_ROWS = (
    Row("ift-longer", "IFT with GRPO's compute", "self-rewarding", "ift-longer"),
    Row("random", "IFT + GRPO, random reward", "self-rewarding", "random"),
    Row("grpo-kl", "IFT + GRPO with a KL", "self-rewarding", "grpo-kl"),
    Row("hacked", "IFT + GRPO, hacked reward and its guard", "self-rewarding", "hacked"),
    Row("calibration", "calibration paths", "self-rewarding", "ift", command="calibrate"),
    Row(
        "ift-threshold",
        "self-rewarding IFT, calibrated stop",
        "self-rewarding",
        "ift",
        ("stop=threshold",),
        needs=("calibration",),
    ),
)
DEMO_CONTROLS = ("ift-longer", "random", "grpo-kl")
"""The rows of `demo --controls`."""

# --- the two-turn chat (tables 5 and 10: two temperatures; 7 and 8: who judges, what the set is made of; 9: M-DPO) --

COMPOSITIONS = {  # table 8, in the paper's proportions: rows of D1, D2 and D3
    "ift-balanced": ("IFT balanced", 125, 0, 125),
    "ift-balanced-c2c": ("IFT balanced + c2c", 125, 60, 125),
    "ift-more-incorrect": ("IFT more incorrect", 125, 0, 60),
    "ift-more-incorrect-c2c": ("IFT more incorrect + c2c", 125, 60, 60),
    "ift-more-correct": ("IFT more correct", 125, 0, 180),
    "ift-more-correct-c2c": ("IFT more correct + c2c", 125, 60, 180),
}
MIXES = {  # table 9
    "m-dpo-d1": ("+ M-DPO D1", "{P1: 1}"),
    "m-dpo-d2": ("+ M-DPO D2", "{P2: 1}"),
    "m-dpo-d1-d2": ("+ M-DPO D1,D2", "{P1: 1, P2: 1}"),
    "m-dpo-d1-d2-d3": ("+ M-DPO D1,D2,D3", "{P1: 1, P2: 1, P3: 1}"),
}
DISTILLED = ("self-rewarding-ift-distillation", "Self-rewarding IFT + distillation")


def two_turn_data(gen: str, pairs: str, unit: float, settings: tuple[str, ...], teacher: str) -> tuple[DataSet, ...]:
    """Return the data sets of the two-turn chat; ``unit`` turns the proportions of `COMPOSITIONS` into rows."""
    chat = ("format=two-turn", *settings)

    def composed(name: str, d1: int, d2: int, d3: int) -> DataSet:
        rows = ", ".join(f"d{place}: {round(part * unit)}" for place, part in enumerate((d1, d2, d3), 1))
        quota = (f"quota={{{rows}}}", "match=none", "balance=null", "baselines=false", "prompts=0")
        return DataSet(f"data-{name}", gen, (*chat, *quota))

    return (
        DataSet(TWO_TURN, gen, chat),
        *(composed(name, *parts) for name, (_, *parts) in COMPOSITIONS.items()),
        DataSet("pairs", pairs, ("format=two-turn", *settings), model="ift-two-turn"),
        DataSet("distilled", gen, (*chat, "baselines=false"), teacher=teacher),
    )


def two_turn_checkpoints(sft: str, baseline: str, mdpo: str, orm: str) -> tuple[Checkpoint, ...]:
    """Return what the tables of the two-turn chat train by these recipes, from the data of `two_turn_data`.

    ``baseline`` fine-tunes the rows without verdicts, which have less that is new to the model.
    """
    return (
        Checkpoint("ift-two-turn", "sft", sft, data=TWO_TURN, rows=OWN_ROWS),
        Checkpoint("raft-chat", "sft", baseline, data=TWO_TURN, rows=RAFT_ROWS.format("raft")),
        Checkpoint("raft-plus-chat", "sft", baseline, data=TWO_TURN, rows=RAFT_ROWS.format("raft-plus")),
        Checkpoint("orm", "orm", orm, data=TWO_TURN, rows=OWN_ROWS),
        *(Checkpoint(name, "sft", sft, data=f"data-{name}", rows=OWN_ROWS) for name in COMPOSITIONS),
        *(
            Checkpoint(name, "dpo", mdpo, (f"mix={mix}",), "ift-two-turn", "pairs", PAIRS)
            for name, (_, mix) in MIXES.items()
        ),
        Checkpoint(DISTILLED[0], "sft", sft, data="distilled", rows=OWN_ROWS),
    )


def sampled(temperature: str) -> tuple[str, ...]:
    """Return the settings of a row sampled with the paper's three seeds."""
    return (f"temperature={temperature}", "seeds=[0,1,2]")


def chat_rows(temperature: str) -> tuple[Row, ...]:
    """Return the rows of table 5 (temperature 1.0) or 10 (0.7)."""
    at, settings = f"-t{temperature}", sampled(temperature)
    return (
        Row(f"chat-gold{at}", "Prompt with Gold RM", "gold", settings=settings),
        Row(
            f"chat-orm{at}",
            "Prompt with External ORM",
            "judged",
            settings=(*settings, "judge.kind=orm"),
            judge="orm",
        ),
        Row(f"chat-intrinsic{at}", "Intrinsic self-correction", "intrinsic", settings=settings),
        Row(f"chat-raft{at}", "STaR/RAFT for self-correction", "intrinsic", "raft-chat", settings),
        Row(f"chat-raft-plus{at}", "STaR/RAFT+ for self-correction", "intrinsic", "raft-plus-chat", settings),
        Row(f"chat-ift{at}", "Self-rewarding IFT", TWO_TURN, "ift-two-turn", settings),
        Row(f"chat-ift-gold{at}", "Self-rewarding IFT + Gold RM", TWO_TURN, "ift-two-turn", (*settings, "stop=gold")),
    )


def trained_chat(name: str, label: str, model: str) -> tuple[Row, Row]:
    """Return a row at temperature 1 and the one that always says wrong, from which p c→i is measured."""
    always = Row(f"{name}-always", f"{label}, always revised", TWO_TURN, model, (*sampled("1.0"), "stop=never"))
    return Row(name, label, TWO_TURN, model, sampled("1.0")), always


CHAT_ROWS = (
    *chat_rows("1.0"),
    *chat_rows("0.7"),
    Row(
        "chat-cross",
        "Llama-3-SFT + Self-rewarding RM",
        "judged",
        settings=(*sampled("1.0"), "judge.kind=two-turn"),
        judge="ift-two-turn",
    ),
    Row("chat-misleading", "told that it is wrong", "misleading", settings=sampled("1.0")),
    *(row for name, (label, *_) in COMPOSITIONS.items() for row in trained_chat(name, label, name)),
    *(
        Row(f"{name}-gold", f"{label} + Gold RM", TWO_TURN, name, (*sampled("1.0"), "stop=gold"))
        for name, (label, *_) in COMPOSITIONS.items()
        if name.endswith("c2c")
    ),
    trained_chat("chat-ift", "Self-rewarding IFT", "ift-two-turn")[1],
    *(row for name, (label, _) in MIXES.items() for row in trained_chat(name, label, name)),
    *trained_chat(*DISTILLED, DISTILLED[0]),
)
_JUDGES = ("chat-gold-t1.0", "chat-orm-t1.0", "chat-cross", "chat-misleading")
CHAT_TABLES = {
    "table5": tuple(row.name for row in chat_rows("1.0")),
    "table7": (*_JUDGES, "ift-balanced-c2c", "ift-balanced-c2c-always", "ift-balanced-c2c-gold"),
    "table8": (*_JUDGES, *(row.name for row in CHAT_ROWS if row.name.startswith("ift-"))),
    "table9": (
        "chat-ift-t1.0",
        "chat-ift-always",
        *(row.name for row in CHAT_ROWS if row.name.startswith(("m-dpo", DISTILLED[0]))),
    ),
    "table10": tuple(row.name for row in chat_rows("0.7")),
}
VOTES = ("temperature=1.0", "seeds=[0,1,2,3,4,5,6,7]")

# --- the studies --------------------------------------------------------------------------------------------------

DEMO = Study(
    base="embedded",
    data=(DataSet(MAIN, "embedded"), *CONTROL_DATA),
    checkpoints=(*long_cot_checkpoints("embedded"), *CONTROL_CHECKPOINTS),
    rows=(*LONG_COT_ROWS, *CONTROL_ROWS),
    tables={"demo": ("intrinsic", "gold", "asked", "raft", "raft-plus", "ift", "grpo"), "controls": DEMO_CONTROLS},
)
"""`selfcorrect demo`: part of the laptop study, on the 1,000 problems of the evaluation's recipe."""

LAPTOP = Study(
    base="embedded",
    data=(*DEMO.data, *two_turn_data("embedded", "embedded-pairs", 1.28, (), "grpo")),
    checkpoints=(
        *DEMO.checkpoints,
        *two_turn_checkpoints("embedded-two-turn-sft", "embedded-sft", "embedded-mdpo", "embedded-orm"),
    ),
    rows=(
        *DEMO.rows,
        *CHAT_ROWS,
        Row("vote-ift", "self-rewarding IFT", "self-rewarding", "ift", VOTES),
        Row("vote-single-turn", "single-turn STaR/RAFT", "single-turn", "raft-single-turn", VOTES),
    ),
    tables={
        "table3": TABLE3,
        "table4": TABLE4,
        **CHAT_TABLES,
        "figure2": ("vote-ift", "vote-single-turn"),
        "controls": tuple(row.name for row in CONTROL_ROWS),
        "budget": ("ift", "dpo", "ppo", "grpo"),
        "calibration": ("ift", "grpo"),
    },
    curves={"figure1": ("ppo", "grpo")},
    everywhere=("problems.count=1146",),  # all that the test split has
)

_WORDED = ".models/worded"
_START = "smollm2-drilled"
SMOLLM = Study(
    base=".models/smollm2",
    data=(DataSet(MAIN, "smollm2-worded", model=_START),),
    checkpoints=(
        Checkpoint("smollm2-start", "sft", "smollm2-worded-start-sft", file=".models/worded/parts.jsonl"),
        Checkpoint(
            _START, "sft", "smollm2-worded-drills-sft", start="smollm2-start", file=".models/worded/drills.jsonl"
        ),
        Checkpoint("ift", "sft", "smollm2-worded-sft", start=_START),
        Checkpoint("grpo", "grpo", "smollm2-worded-grpo", start="ift"),
        Checkpoint("grpo-first", "grpo", "smollm2-worded-grpo", ("horizon=1",), start="ift"),
        Checkpoint(
            "random", "grpo", "smollm2-worded-grpo", ("reward={correctness: 0, random: 1, format: 0.2}",), start="ift"
        ),
    ),
    rows=(
        Row("asked", "asked for each part", "asked", _START),
        Row("gold", "gold verdict", "gold", _START),
        Row("intrinsic", "intrinsic self-correction", "intrinsic", _START),
        Row("ift", "self-rewarding IFT", "self-rewarding", "ift"),
        Row("grpo", "self-rewarding IFT + GRPO", "self-rewarding", "grpo"),
        Row("grpo-first", "IFT + GRPO of the first attempt alone", "self-rewarding", "grpo-first"),
        Row("random", "IFT + GRPO, random reward", "self-rewarding", "random"),
    ),
    tables={
        "table3": ("asked", "gold", "intrinsic", "ift", "grpo"),
        "controls": ("grpo-first", "random"),
        "table4": ("ift",),
        "budget": ("asked", "ift", "grpo"),
        "calibration": ("ift",),
    },
    curves={"figure1": ("grpo",)},
    evaluation={"": "smollm2-worded"},
)
"""A real LLM on a CPU: table 3 without its baselines, from a start model that answers in form where it is asked for
each part (benchmarks/gpu/worded_parts.py)."""

QWEN = Study(
    base="Qwen/Qwen2.5-Math-7B",
    data=(DataSet(MAIN, "qwen2.5-math-7b", ("schedule=adaptive", "baselines=true")),),
    checkpoints=(
        *long_cot_checkpoints("qwen2.5-math-7b"),
        Checkpoint("ppo-step-100", "ppo", "qwen2.5-math-7b-ppo", ("steps=100",), start="ift"),
    ),
    rows=(*LONG_COT_ROWS, Row("ppo-step-100", "PPO step 100", "self-rewarding", "ppo-step-100")),
    tables={"table3": TABLE3, "table4": ("ift", "ppo-step-100", "ppo", "dpo-iteration-2", "dpo")},
    curves={"figure1": ("ppo",)},
    evaluation={"math500-": "math500", "olympiadbench-": "olympiadbench", "minerva_math-": "minerva_math"},
    everywhere=("engine.kind=vllm",),
    gen_settings=("engine.kind=vllm",),
    train_settings=dict.fromkeys(("sft", "dpo", "ppo", "grpo"), ("--launch", "fsdp")),
)


def llama(base: str, batch_rows: int, tables: Mapping[str, tuple[str, ...]]) -> Study:
    """Return the study of a Llama-3 model on MATH and GSM8K (its 7,500 training problems of each)."""
    problems = ("problems.source=math", "problems.count=6000", "max_tokens=2048")
    data = two_turn_data("qwen2.5-math-7b", "qwen2.5-math-7b", 1000, problems, "")
    pairs = (
        "parts=in-path",
        "quota={d1: 0, d2: 0, d3: 0}",
        "preferences={p1: 20000, p2: 10000, p3: 20000}",
        "balance=null",
    )
    named = {
        TWO_TURN: ("baselines=true",),
        "pairs": pairs,
        "distilled": ("teacher.kind=vllm", "teacher.model=meta-llama/Meta-Llama-3-70B-Instruct"),
    }
    return Study(
        base=base,
        data=tuple(_with(made, (*named.get(made.name, ()), "schedule=adaptive")) for made in data),
        checkpoints=two_turn_checkpoints("llama3-8b-sft", "llama3-8b-sft", "llama3-8b-mdpo", "embedded-orm"),
        rows=(*CHAT_ROWS, Row("vote-mdpo", "+ M-DPO D1,D2,D3", TWO_TURN, "m-dpo-d1-d2-d3", VOTES)),
        tables=tables,
        evaluation={"math-": "math", "gsm8k-": "gsm8k"},
        everywhere=("engine.kind=vllm", "max_tokens=2048"),
        gen_settings=("engine.kind=vllm",),
        train_settings={
            "sft": (f"batch_rows={batch_rows}", "--launch", "fsdp"),
            "dpo": ("--launch", "fsdp"),
            "orm": (
                *("learning_rate=2e-6", "epochs=1", "max_tokens=4096", "precision=bf16"),
                *("micro_rows=1", "trainer.gradient_checkpointing=true", "--launch", "fsdp"),
            ),
        },
    )


def _with(made: DataSet, settings: tuple[str, ...]) -> DataSet:
    """Return a data set with further settings, and without a checkpoint in the place that a setting fills."""
    is_taught = any(setting.startswith("teacher.") for setting in settings)
    return DataSet(made.name, made.recipe, (*made.settings, *settings), made.model, "" if is_taught else made.teacher)


_BOTH = {name: CHAT_TABLES[name] for name in ("table5", "table10")}
GPU = {
    "qwen": QWEN,
    "llama3-it": llama(
        "meta-llama/Meta-Llama-3-8B-Instruct",
        32,
        {**_BOTH, "table9": CHAT_TABLES["table9"], "figure2": ("vote-mdpo",)},
    ),
    "llama3-sft": llama(
        "RLHFlow/LLaMA3-SFT-v2", 64, {**_BOTH, "table7": CHAT_TABLES["table7"], "table8": CHAT_TABLES["table8"]}
    ),
}

SCALES: Mapping[str, Mapping[str, Study]] = {"laptop": {"": LAPTOP}, "smollm": {"": SMOLLM}, "gpu": GPU}
TABLES = ("table3", "table4", "table5", "table7", "table8", "table9", "table10", "figure1", "figure2")
EXTRA = ("controls", "budget", "calibration")
"""What `reproduce all` makes beside the paper's tables, where a study has it."""
