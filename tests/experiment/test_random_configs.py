"""Whatever is composed of options and of any values trains, or is refused in one clear error before
it does.

The same 30 configurations each time; FUZZ_CONFIGS=N makes it N new ones.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from structured_dropout.experiment.errors import TrainingDiverged, UsageError

CONF = Path(__file__).parents[2] / "conf"
DROPOUTS = sorted(path.stem for path in (CONF / "dropout").glob("*.yaml"))
BACKENDS = sorted(path.stem for path in (CONF / "backend").glob("*.yaml"))


def mostly(good: list[str], bad: list[str]) -> st.SearchStrategy[str]:
    """A good value four times out of five, else one that means nothing."""
    return st.integers(0, 4).flatmap(lambda i: st.sampled_from(good if i else bad))


counts = mostly(["1", "2", "3", "7"], ["0", "-1", "2.5", "true", "many", "null", "1000", "[1]"])
numbers = mostly(["1", ".1", "3"], ["0", "-1", "1e30", "nan", "inf", "some", "null", "true"])
rates = mostly(
    ["0", ".3", ".9", "[.1,.2]"], ["1", "-.1", "nan", "half", "null", "[.1,.2,.3]", "[]", "{a:1}"]
)
paths = st.sampled_from(["nowhere.txt", ".", "5", "[a]", "null"])
sites = st.fixed_dictionaries(
    {"case": mostly(["I", "II", "III", "IV"], ["V"]), "p": rates},
    optional={
        "redraw_every": mostly(["1", "3", "sequence"], ["0", "often"]),
        "sampling": mostly(["bernoulli", "exact"], ["other"]),
    },
).map(lambda site: "{" + ",".join(f"{key}:{value}" for key, value in site.items()) + "}")

COMMON = {
    "task.rates.nr": rates,
    "task.rates.rh": rates,
    "task.rates.output": rates,
    "dropout.nr": sites,
    "dropout.rh": sites,
    "++dropout.output": sites,
    "++dropout.cell": sites,
    "++dropout.update": sites,
    "++dropout.weight": rates,
    "++dropout.zoneout": st.sampled_from(["{h:.1,c:.2}", "{h:.1}", "{h:0,c:0}", "2"]),
    "model.layers": counts,
    "model.hidden_size": counts,
    "train.batch": counts,
    "train.epochs": counts,
    "train.lr": numbers,
    "train.clip": numbers,
    "train.checkpoint_iterations": counts,
    "train.checkpoint_minutes": numbers,
    "seed": mostly(["0", "1"], ["-1", "1.5", "many", "null", "99999999999999999999999"]),
    "device": mostly(["auto", "cpu"], ["meta", "tpu", "null"]),
}
LANGUAGE_MODEL = {
    "model.tied": mostly(["true", "false", "null"], ["3"]),
    "train.bptt": counts,
    "data.vocabulary_size": counts,
    "data.train": paths,
}
OWN = {
    "ptb_small": {
        **LANGUAGE_MODEL,
        "model.init": numbers,
        "train.decay": numbers,
        "train.decay_after": counts,
    },
    "ptb_awd": {
        **LANGUAGE_MODEL,
        "model.embedding_size": counts,
        "model.embedding_dropout": rates,
        "train.weight_decay": numbers,
        "train.nonmono": counts,
        "train.alpha": numbers,
        "train.beta": numbers,
    },
    "ner_conll03": {
        "model.char_size": counts,
        "model.char_filters": counts,
        "model.char_width": counts,
        "embeddings.size": counts,
        "placement": mostly(["input", "embeddings"], ["none"]),
        "train.momentum": numbers,
        "train.decay": numbers,
        "data.train": paths,
        "data.scheme": mostly(["BIO2"], ["IOB1", "BILOU", "3"]),
    },
    "nmt_multi30k": {
        "model.init": numbers,
        "train.steps": counts,
        "train.decay": numbers,
        "train.decay_after": counts,
        "train.decay_every": counts,
        "data.train_src": paths,
        "data.max_length": counts,
        "data.vocabulary_size": counts,
        "data.evaluate_on": counts,
        "translate.beam": counts,
        "translate.max_length": counts,
        "translate.batch": counts,
    },
}
NEEDS = {"ner_conll03": "torchcrf", "nmt_multi30k": "onmt"}  # of extras that may not be installed
TASKS = [task for task in OWN if find_spec(NEEDS.get(task, "torch"))]


@st.composite
def configs(draw) -> list[str]:
    task = draw(st.sampled_from(TASKS))
    values = {**COMMON, **OWN[task]}
    keys = draw(st.lists(st.sampled_from(sorted(values)), max_size=4, unique=True))
    dropout = draw(
        st.sampled_from(["none", "nr_random", "nr_st", "nr_rh_st"]) | st.sampled_from(DROPOUTS)
    )
    backend = draw(st.just("auto") | st.sampled_from(BACKENDS))
    return [
        f"task={task}",
        f"dropout={dropout}",
        f"backend={backend}",
        *(f"{key}={draw(values[key])}" for key in keys),
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, list[str]]:
    """Overrides of a tiny model and data, by task."""
    makers = {
        "ptb_small": tiny.text,
        "ptb_awd": tiny.text,
        "ner_conll03": tiny.columns,
        "nmt_multi30k": tiny.pairs,
    }
    made = {
        f"task={task}": make(tmp_path_factory.mktemp(task))
        for task, make in makers.items()
        if task in TASKS
    }
    made["task=ptb_awd"] += ["model.embedding_size=8"]
    return made


@settings(
    max_examples=int(os.environ.get("FUZZ_CONFIGS", "30")),
    derandomize="FUZZ_CONFIGS" not in os.environ,
    deadline=None,
)
@given(configs())
def test_a_configuration_trains_or_is_refused(launch, data, config):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        try:
            launch(*data[config[0]], "train.max_iterations=2", *config, f"run.dir={run}")
        except (UsageError, HydraException):
            assert not (run / "checkpoint.pt").exists()
        except TrainingDiverged:
            assert {"train.lr", "train.clip", "model.init"} & {
                value.split("=")[0] for value in config
            }
        else:
            assert (run / "summary.json").exists()
