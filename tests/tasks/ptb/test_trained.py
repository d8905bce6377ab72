"""What a trained language model is used for: its perplexity of other texts, and its own text."""

import json
import math
from pathlib import Path

import pytest
import torch

from structured_dropout import Case, DropoutPolicy, SiteDropout
from structured_dropout.experiment import checkpoint, settings
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.run import Run
from tasks.ptb import evaluate, generate
from tasks.ptb.model import LanguageModel
from tasks.ptb.trained import load
from tasks.ptb.vocabulary import Vocabulary

SMALL = {
    "ptb_small": ["dropout=zoneout"],  # which has a part in the evaluation, too
    "ptb_awd": ["dropout=awd", "model.embedding_size=8", "train.lr=1"],
}


@pytest.fixture(scope="module", params=SMALL)
def trained(request, launch, tiny_text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    overrides = [*tiny_text, *SMALL[request.param], "data.vocabulary_size=15"]
    launch(
        f"task={request.param}", *overrides, "backend=dense", "train.epochs=2", f"run.dir={folder}"
    )
    return folder


def test_the_perplexity_is_the_training_s(use, trained, tiny_text):
    """With the checkpoint alone, of the test split or of a file, without the training text."""
    reported = json.loads((trained / "summary.json").read_text())["metrics"]["test_perplexity"]
    path = next(o.split("=")[1] for o in tiny_text if o.startswith("data.test="))
    for overrides in ([], [f"input={path}"]):
        scores = json.loads(
            use(evaluate.main, f"checkpoint={trained / 'checkpoint.pt'}", *overrides)
        )
        assert scores["perplexity"] == pytest.approx(reported, rel=1e-6)
        words = Path(path).read_text().replace("\n", " <eos> ").split()
        assert scores["words"] == len(words)  # of which the file's last line has no line feed
        known = set(torch.load(trained / "checkpoint.pt")["kept"]["vocabulary"]["words"])
        unknown = sum(word not in known for word in words[1:])
        assert scores["unk_percent"] == pytest.approx(100 * unknown / len(words))


def test_mc_dropout_averages_probabilities():
    """Over passes of which each has its own masks and its own state."""
    torch.manual_seed(0)
    policy = DropoutPolicy(nr=SiteDropout(Case.I, 0.5), output=SiteDropout(Case.III, 0.5))
    model = LanguageModel(11, 8, 1, None, 0.5, policy, "dense").train()
    stream = torch.randint(11, (9,))
    torch.manual_seed(1)
    states, probabilities = [None] * 3, []
    for window in (slice(0, 5), slice(5, 8)):
        passes = []
        for i in range(3):
            logits, states[i] = model(stream[:-1][window, None], states[i])
            passes.append(logits[:, 0].softmax(1))
        averaged = sum(passes) / 3
        probabilities += averaged.gather(1, stream[1:][window, None]).flatten().tolist()
    expected = math.exp(-sum(map(math.log, probabilities)) / 8)
    torch.manual_seed(1)
    assert evaluate.averaged_perplexity(model, stream, 3, bptt=5) == pytest.approx(expected)


def test_mc_dropout_by_the_command(use, trained):
    """The same seed gives the same masks."""
    arguments = [evaluate.main, f"checkpoint={trained / 'checkpoint.pt'}"]
    plain, *averaged = (
        json.loads(use(*arguments, *more))["perplexity"]
        for more in ([], *[["evaluate.samples=4"]] * 2, ["evaluate.samples=4", "seed=2"])
    )
    assert averaged[0] == averaged[1]
    assert len({plain, *averaged}) == 3
    assert averaged[0] == pytest.approx(plain, rel=0.3)


def test_another_precision_than_the_training_s_is_named(compose, trained, caplog, monkeypatch):
    monkeypatch.setattr(settings, "autocasts_lstm", lambda: True)
    caplog.set_level("INFO")
    overrides = [f"checkpoint={trained / 'checkpoint.pt'}", "backend=dense", "device=cpu"]
    load(compose(*overrides))
    assert "in the training" not in caplog.text
    load(compose(*overrides, "precision=bf16"))
    assert "precision=bf16, in the training fp32" in caplog.text


def test_a_test_split_that_changed_is_an_error(use, launch, tiny_text, tmp_path):
    test = tmp_path / "test.txt"
    test.write_text("w1 w2\n")
    launch(*tiny_text, f"data.test={test}", "train.max_iterations=1", f"run.dir={tmp_path}")
    test.write_text("w2 w1\n")
    with pytest.raises(UsageError, match="the data's test is not what the model was tested on"):
        use(evaluate.main, f"checkpoint={tmp_path / 'checkpoint.pt'}")


def test_the_same_seed_generates_the_same_text(use, trained):
    arguments = [f"checkpoint={trained / 'checkpoint.pt'}", "generate.length=30"]
    text = use(generate.main, *arguments, "generate.prompt=w1 w2")
    assert text.startswith("w1 w2")
    words = text.removesuffix("\n").replace("\n", " <eos> ").split(" ")
    assert len([word for word in words if word]) == 32
    assert use(generate.main, *arguments, "generate.prompt=w1 w2") == text
    assert use(generate.main, *arguments, "generate.prompt=w1 w2", "seed=2") != text


def test_a_prompt_can_be_a_file(use, trained, tmp_path):
    prompt = tmp_path / "2016"
    prompt.write_text("w1 w2\nw3\n")
    arguments = [f"checkpoint={trained / 'checkpoint.pt'}", "generate.length=5"]
    text = use(generate.main, *arguments, f"input={prompt}")
    assert text.startswith("w1 w2\nw3")
    with pytest.raises(UsageError, match="are both a prompt"):
        use(generate.main, *arguments, f"input={prompt}", "generate.prompt=w1")


def test_unknown_words_of_a_prompt_are_named(use, trained, caplog):
    caplog.set_level("INFO")
    arguments = [f"checkpoint={trained / 'checkpoint.pt'}", "generate.length=1"]
    use(generate.main, *arguments, "generate.prompt=w0 foo bar foo")
    assert "the model does not know foo, bar: read as <unk>" in caplog.text


def test_words_are_drawn_at_their_probabilities():
    """At temperature 1 as often as the model says, at a low one always the likeliest."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(["<eos>", "a", "b"])
    model = LanguageModel(3, 4, 1, None, 2.0, DropoutPolicy(), "dense").eval()
    logits, _ = model(torch.tensor([[0], [1]]))
    expected = logits[-1, 0].softmax(0)
    drawn = [
        next(generate.continuation(model, vocabulary, ["a"], 1, 1.0, seed)) for seed in range(500)
    ]
    for word, probability in zip(vocabulary.words, expected.tolist(), strict=True):
        error = math.sqrt(probability * (1 - probability) / 500)
        assert drawn.count(word) / 500 == pytest.approx(probability, abs=4 * error)
    likeliest = vocabulary.words[int(expected.argmax())]
    assert {
        next(generate.continuation(model, vocabulary, ["a"], 1, 1e-9, seed)) for seed in range(20)
    } == {likeliest}


def test_a_continuation_is_given_all_words_before():
    torch.manual_seed(0)
    vocabulary = Vocabulary(["<eos>", *"abcdefg"])
    model = LanguageModel(8, 4, 2, None, 2.0, DropoutPolicy(), "dense").eval()
    words = list(generate.continuation(model, vocabulary, ["c"], 10, 1e-9, seed=1))
    tokens = vocabulary.encode(["<eos>", "c", *words])
    logits, _ = model(tokens[:-1, None])
    assert torch.equal(logits[1:, 0].argmax(1), tokens[2:])


@pytest.mark.parametrize(
    ("main", "override", "message"),
    [
        (evaluate.main, "checkpoint=null", "needs checkpoint=, the checkpoint.pt in the folder"),
        (generate.main, "checkpoint=null", "needs checkpoint=, the checkpoint.pt in the folder"),
        (evaluate.main, "checkpoint=nowhere.pt", "checkpoint=nowhere.pt does not exist"),
        (evaluate.main, "input=nowhere.txt", "nowhere.txt cannot be read"),
        (evaluate.main, "input=/dev/null", "input=/dev/null has no words"),
    ],
)
def test_what_cannot_be_used(use, trained, main, override, message):
    with pytest.raises(UsageError, match=message):
        use(main, f"checkpoint={trained / 'checkpoint.pt'}", override)


def test_without_unk_an_unknown_word_is_an_error():
    with pytest.raises(UsageError, match="the model knows neither b, c nor <unk>"):
        Vocabulary(["<eos>", "a"]).encode(["a", "b", "c", "b"])
    assert Vocabulary(["<unk>", "a"]).encode(["a", "b"]).tolist() == [1, 0]


def test_a_checkpoint_without_vocabulary_is_one_clear_error(
    use, launch, monkeypatch, tiny_text, tmp_path
):
    """As language models left them before they kept one: to use, or to go on from."""
    keep = Run.keep
    with monkeypatch.context() as patch:
        patch.setattr(
            Run,
            "keep",
            lambda run, vocabulary, **objects: keep(run, **objects),
        )
        launch(*tiny_text, "train.max_iterations=2", f"run.dir={tmp_path}")
    assert "vocabulary" not in checkpoint.load(tmp_path / "checkpoint.pt")["kept"]
    with pytest.raises(UsageError, match=r"checkpoint.pt has no vocabulary, for an older version"):
        use(evaluate.main, f"checkpoint={tmp_path / 'checkpoint.pt'}")
    with pytest.raises(UsageError, match="has no vocabulary, for an older version wrote it: go on"):
        launch(*tiny_text, "train.max_iterations=2", f"run.dir={tmp_path}")
