from collections.abc import Iterable
from pathlib import Path

import pytest

from structured_dropout.experiment.errors import UsageError
from tasks.nmt.batches import BatchRange, ShuffledBatches, Vocabulary
from tasks.nmt.data import Pairs, load

PAIRS = Pairs(
    [f"a{i} b" * (i % 3 + 1) for i in range(23)], [f"c d{i}" * (i % 4 + 1) for i in range(23)]
)


@pytest.fixture
def parallel(compose, tmp_path):
    """Write six files, some of them given, and compose the data that they are."""

    def parallel(**files: bytes):
        overrides = ["task=nmt_multi30k", "data=parallel"]
        for split in ("train", "valid", "test"):
            for side in ("src", "tgt"):
                path = tmp_path / f"{split}.{side}"
                path.write_bytes(files.get(f"{split}_{side}", b"a b\nc\n"))
                overrides.append(f"data.{split}_{side}={path}")
        return compose(*overrides).data

    return parallel


def test_own_pairs(parallel):
    corpus = load(parallel(train_src=b"a  b\r\nc\n\nd e", train_tgt=b"\xef\xbb\xbfx\ny\nz\nv w\n"))
    assert corpus.train == Pairs(
        ["a b", "c", "d e"], ["x", "y", "v w"]
    )  # not the pair with an empty sentence
    assert corpus.valid == Pairs(["a b", "c"], ["a b", "c"])
    assert corpus.provenance["exact"]
    assert corpus.provenance["pairs"] == {"train": 3, "valid": 2, "test": 2}


def test_only_a_line_feed_ends_a_sentence(parallel):
    text = "a\u2028b\x85c\nd\n".encode()
    assert load(parallel(train_src=text, train_tgt=b"x\ny\n")).train.src == ["a b c", "d"]


def test_long_pairs_are_left_out(parallel):
    data = parallel(train_src=b"a\nb b b\nc\n", train_tgt=b"x\ny\nz z z z\n")
    data.max_length = 3
    assert load(data).train == Pairs(["a", "b b b"], ["x", "y"])
    data.max_length = 0
    with pytest.raises(
        UsageError, match=r"no training pair has sentences of 1 to data.max_length=0 words"
    ):
        load(data)


def test_a_trial_can_evaluate_on_less_and_says_so(parallel):
    data = parallel()
    data.evaluate_on = 1
    corpus = load(data)
    assert corpus.provenance["pairs"] == {"train": 2, "valid": 1, "test": 1}
    assert not corpus.provenance["exact"]
    assert corpus.provenance["note"] == "BLEU of the first 1 sentences"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_src": b"a\nb\nc\n"}, r"train.src has 3 lines and .*train.tgt has 2: line i"),
        ({"valid_tgt": b""}, r"valid.tgt is empty"),
        ({"test_src": b" \n\n"}, r"test.src is empty"),
        ({"test_tgt": b"a b\n\xff\n"}, r"test.tgt:2 is not UTF-8: byte 0xff"),
        ({"train_src": "ä\nö\n".encode("latin-1")}, r"train.src:1 is not UTF-8"),
    ],
)
def test_bad_files(parallel, files, message):
    with pytest.raises(UsageError, match=message):
        load(parallel(**files))


def test_missing_files(parallel, compose):
    data = parallel()
    data.valid_tgt = "nowhere.txt"
    with pytest.raises(UsageError, match=r"nowhere.txt cannot be read: No such file"):
        load(data)
    data.valid_tgt = None
    with pytest.raises(UsageError, match=r"data.valid_tgt must be given"):
        load(data)
    with pytest.raises(UsageError, match=r"data.train_tgt must be given"):
        load(compose("task=nmt_de_en", "data.train_src=x").data)
    with pytest.raises(UsageError, match=r"data.dir=/nowhere does not exist"):
        load(compose("task=nmt_de_en", "data.dir=/nowhere").data)


def test_a_public_set_that_is_not_there(compose, tmp_path):
    with pytest.raises(UsageError, match=r"train.de is missing: fairseq's"):
        load(compose("task=nmt_de_en", f"data.dir={tmp_path}").data)


@pytest.mark.parametrize(
    ("task", "exact", "note", "pairs"),
    [
        ("nmt_multi30k", True, None, (29_000, 1_014, 1_000)),
        (
            "nmt_de_en",
            False,
            "partial: 48,872 of the 160,239 training pairs",
            (46_849, 7_283, 6_750),
        ),
        ("nmt_en_vi", False, "substitute: 100,057 pairs of other sources", (98_526, 1_553, 1_268)),
    ],
)
def test_real_sets_say_what_they_are(real_data, compose, task, exact, note, pairs):
    provenance = load(compose(f"task={task}", f"data.dir={real_data}").data).provenance
    assert provenance["exact"] == exact
    assert provenance.get("note") is note or provenance["note"].startswith(note)
    assert tuple(provenance["pairs"].values()) == pairs


def test_an_altered_public_file_is_refused(real_data, compose, tmp_path):
    (tmp_path / "multi30k_de_en").mkdir()
    for path in Path(real_data, "multi30k_de_en").iterdir():
        content = path.read_bytes()
        (tmp_path / "multi30k_de_en" / path.name).write_bytes(
            content[:1000] if path.name.startswith("val") else content
        )
    with pytest.raises(UsageError, match=r"val.lc.norm.tok.de is not the published file"):
        load(compose("task=nmt_multi30k", f"data.dir={tmp_path}").data)
    own = [
        f"data.valid_{side}={tmp_path}/multi30k_de_en/val.lc.norm.tok.{side}"
        for side in ("src", "tgt")
    ]
    for side, language in (("src", "de"), ("tgt", "en")):
        Path(f"{tmp_path}/multi30k_de_en/val.lc.norm.tok.{side}").write_text(f"{language}\n")
    provenance = load(compose("task=nmt_multi30k", f"data.dir={tmp_path}", *own).data).provenance
    assert provenance["note"] == "own valid files"
    assert not provenance["exact"]


def test_the_vocabulary_is_the_most_frequent_words():
    vocabulary = Vocabulary.of(Pairs(["a b b", "b c c"], ["x", "y y"]), size=2)
    assert vocabulary.words("src") == ["<unk>", "<blank>", "b", "c"]
    assert vocabulary.words("tgt") == ["<unk>", "<blank>", "<s>", "</s>", "y", "x"]
    told = vocabulary.unk_percent(
        train=Pairs(["a b b", "b c c"], ["x", "y y"]), test=Pairs(["b d"], ["x"])
    )
    assert told == {"src": {"train": 16.67, "test": 50}, "tgt": {"train": 0, "test": 0}}
    again = Vocabulary(vocabulary.state_dict())
    assert again.state_dict() == vocabulary.state_dict()
    assert again.fields["src"].base_field.vocab.stoi["never seen"] == 0
    with pytest.raises(UsageError, match="not those that this run began with"):
        vocabulary.load_state_dict(
            {**vocabulary.state_dict(), "src": ["<unk>", "<blank>", "c", "b"]}
        )


def test_a_pass_takes_every_pair_once_in_an_order_of_its_own():
    vocabulary = Vocabulary.of(PAIRS, size=100)
    batches = ShuffledBatches(PAIRS, vocabulary, batch=4, seed=1)
    orders = []
    for first in (0, 6, 12):
        found = list(BatchRange(batches, first, 6))
        assert sorted(i for batch in found for i in batch.indices.tolist()) == list(range(23))
        for batch in found:
            (src, lengths), tgt = batch.src, batch.tgt
            assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
            assert src.shape == (lengths.max(), len(batch), 1)
            assert (tgt[0] == vocabulary.words("tgt").index("<s>")).all()
        orders.append([batch.indices.tolist() for batch in found])
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    vocabulary = Vocabulary.of(PAIRS, size=100)

    def order(seed: int, numbers: Iterable[int]) -> list[list[int]]:
        batches = ShuffledBatches(PAIRS, vocabulary, batch=4, seed=seed)
        return [batches[number].indices.tolist() for number in numbers]

    expected = order(1, range(18))
    for number in (17, 3, 9):
        assert order(1, [number]) == [expected[number]]
    assert order(1, (17, 3)) == [expected[17], expected[3]]
    assert order(2, range(18)) != expected
