"""Every file under conf/ composes, and what cannot be run is refused in one line before any
training."""

from pathlib import Path

import pytest
from hydra.errors import HydraException

from structured_dropout.experiment import schema, settings
from structured_dropout.experiment.composition import explain
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.identity import signature

ROOT = Path(__file__).parents[2]
OPTIONS = [(path.parent.name, path.stem) for path in sorted((ROOT / "conf").glob("*/*.yaml"))]
TASKS = [option for group, option in OPTIONS if group == "task"]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(compose, group, option):
    task = ["task=ner_conll03"] if group == "embeddings" else []
    cfg = compose(*task, f"{'+' if group == 'experiment' else ''}{group}={option}")
    schema.check(cfg)
    if group == "tracker":
        assert [name for name in ("wandb", "tensorboard") if cfg.tracker[name]] == [
            name for name in (option,) if name != "console"
        ]
    elif group != "experiment":
        assert cfg[group].name == option


@pytest.mark.parametrize("task", TASKS)
def test_every_dropout_of_a_task_is_a_policy(compose, task):
    for dropout in compose(f"task={task}").task.dropouts:
        cfg = compose(f"task={task}", f"dropout={dropout}")
        settings.check(cfg)
        settings.policy(cfg, layers=cfg.model.layers)


def test_a_rate_can_be_set_from_the_command_line(compose):
    cfg = compose(
        "task=ptb_medium", "dropout=nr_rh_st", "dropout.nr.p=[.3,.4]", "dropout.rh.redraw_every=5"
    )
    policy = settings.policy(cfg, layers=2)
    assert policy.nr.p == (0.3, 0.4)
    assert policy.rh.redraw_every == 5
    assert policy.output.p == 0.5
    assert policy.output.redraw_every == 1


def test_the_sites_are_redrawn_together_unless_given_apart(compose):
    policy = settings.policy(
        compose("dropout=nr_rh_st", "dropout.nr.redraw_every=sequence"), layers=2
    )
    assert (
        policy.nr.redraw_every == policy.rh.redraw_every == policy.output.redraw_every == "sequence"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dropout.nr.p=1.2", r"dropout.nr: a dropout rate must be a number in \[0, 1\), not 1.2"),
        ("dropout.nr.p=[.1,.2,.3]", "dropout.nr: p has 3 rates for 2 layers"),
        ("dropout.rh.case=V", "dropout.rh: unknown dropout case 'V'"),
        ("dropout.rh.redraw_every=0", "dropout.rh: redraw_every"),
        ("+dropout.rh.rate=3", "dropout.rh: .*rate"),
        (
            "+dropout.gates=.5",
            "dropout.gates: there is no such part of a policy: choose nr, rh, output, cell",
        ),
        (
            "+dropout.weight=1.5",
            r"dropout.weight: a dropout rate must be a number in \[0, 1\), not 1.5",
        ),
        (
            "+dropout.zoneout={h:.1,c:-1}",
            r"dropout.zoneout: a dropout rate must be a number in \[0, 1\), not -1",
        ),
        ("+dropout.zoneout={h:.1}", "dropout.zoneout: .*c"),
        ("+dropout.cell={case:II,p:[.1]}", "dropout.cell: p has 1 rates for 2 layers"),
        ("data=multi30k", "data=multi30k is not for task=ptb_small: choose ptb, wikitext2, text"),
        ("seed=-1", "seed must be 0 or more"),
        ("model.hidden_size=-1", "model.hidden_size must be positive"),
        ("train.lr=0", "train.lr must be positive"),
        ("dropout.nr=.3", "node `dropout.nr` is not a container"),
        ("train.lr=nan", "train.lr must be a finite number, not nan"),
        ("+seeds=3", r"there is no key seeds: did you mean seed\?"),
        ("++bactch=4", r"there is no key bactch: did you mean train.batch\?"),
        ("+droput=nr_st", r"there is no key droput: did you mean dropout\?"),
        ("+train.epohs=3", r"there is no key train.epohs: did you mean train.epochs\?"),
        ("+task.rates.hr=.3", r"there is no key task.rates.hr: did you mean task.rates.rh\?"),
        ("generate.temperature=0", "generate.temperature must be positive, not 0"),
        ("evaluate.samples=0", "evaluate.samples must be positive, not 0"),
        ("input=x", "input= is for using a trained model: a training does not read it"),
        ("mode=tag", "task=ptb_small has no mode=tag: choose train"),
        ("train.lr='${seeds}'", "Interpolation key 'seeds' not found"),
        ("backend=fused", "backend fused cannot run this on cpu"),
        ("device=tpux", "device=tpux"),
    ],
)
def test_impossible_values(compose, override, message):
    cfg = compose("device=cpu", override)
    with pytest.raises(UsageError, match=message):
        settings.check(cfg)
        settings.backend(cfg, settings.policy(cfg, layers=cfg.model.layers))


def test_the_signature_ignores_how_a_run_is_watched_and_executed(compose):
    base = signature(compose("task=ptb_small"))
    for same in (
        "device=cpu",
        "tracker=wandb",
        "tracker=[wandb,tensorboard]",
        "train.threads=1",
        "run.dir=x",
        "data.dir=/x",
        "train.checkpoint_minutes=1",
        "generate.length=3",
        "evaluate.samples=2",
    ):
        assert signature(compose("task=ptb_small", same)) == base
    for same in ("precision=fp32", "train.clip=5.0", "train.lr=1e0", "task.rates.nr=25e-2"):
        assert signature(compose("task=ptb_small", same)) == base
    for other in (
        "seed=2",
        "dropout=nr_st",
        "precision=bf16",
        "train.lr=2",
        "backend=dense",
        "dropout.nr.p=.1",
    ):
        assert signature(compose("task=ptb_small", other)) != base


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.embedding_dropout=1", r"model.embedding_dropout must be in \[0, 1\), not 1.0"),
        ("train.alpha=-1", "train.alpha must be 0 or more, not -1.0"),
        ("model.tied=null", "model.tied"),
    ],
)
def test_a_task_checks_its_own_keys(compose, override, message):
    with pytest.raises((UsageError, HydraException), match=message):
        settings.check(compose("task=ptb_awd", override))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trian.epochs=3"], "there is no key trian.epochs: did you mean train.epochs?"),
        (
            ["task=ner_conll03", "train.bptt=3"],
            "there is no key train.bptt: did you mean train.batch?",
        ),
        (
            ["task=ptb_small,ptb_awd", "model.ties=1"],
            "there is no key model.ties: did you mean model.tied?",
        ),
        (["src=x"], "there is no key src"),
        (["task=ptb_smal"], "there is no task=ptb_smal: did you mean ptb_small?"),
        (["dropout=lots"], "there is no dropout=lots: choose awd, dropconnect, none"),
        (
            ["model.hidden_size=wide"],
            "model.hidden_size=wide: Value 'wide' of type 'str' could not be converted to Integer",
        ),
        (["train.epochs=2.5"], "could not be converted to Integer"),
        (["data=text", "data.train=[a]"], "data.train=[a]: "),
    ],
)
def test_what_hydra_cannot_compose_is_one_line(compose, overrides, message):
    with pytest.raises(HydraException) as error:
        compose(*(override.split(",")[0] for override in overrides))
    line = explain(error.value, ["-m", *overrides], ROOT / "conf")
    assert line.startswith(message) if message.startswith("there") else message in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian.epochs=3"], "error: there is no key trian.epochs: did you mean train.epochs?"),
        (
            ["dropout=nr_st", "seed=99", "data.dir=/nowhere"],
            "error: data.dir=/nowhere does not exist",
        ),
        (["precision=null"], "error: precision=null names no option: choose bf16, fp32"),
        (["-m", "dropout=3"], "error: dropout=3 names no option: choose awd, "),
        (["-m", "run.dir=/tmp/x"], "error: run.dir names one folder"),
        (["+experiment=table1"], "error: only= chooses among the runs of a sweep: add -m"),
        (
            ["-m", "+experiment=table1", "only=[ptb_medium/nr_rs_st]"],
            "error: only=['ptb_medium/nr_rs_st'] names none of this sweep's runs",
        ),
        (["tracker=wandb", "tracker.mode=ofline"], "error: tracker.mode must be one of online, "),
        (
            ["task=nmt_multi30k", "mode=translate", "translate.beam=0"],
            "error: translate.beam must be positive",
        ),
    ],
)
def test_run_py_refuses_in_one_line(forks, arguments, message):
    result = forks.run("run.py", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_package_is_named(compose):
    cfg = compose("task=ptb_small")
    settings.check(cfg)
    cfg.task.requires = {"some_extra": ["torch", "no_such_module"]}
    with pytest.raises(
        UsageError, match=r"needs no_such_module: pip install 'structured-dropout\[some_extra\]'"
    ):
        settings.check(cfg)
