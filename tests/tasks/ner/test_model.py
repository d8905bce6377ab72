"""The model against definitions: each sentence on its own, every tag sequence counted, a
convolution by torch."""

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import nn

from structured_dropout import Case, DropoutPolicy, SiteDropout
from tasks.ner import char_cnn
from tasks.ner.batches import collate, encode
from tasks.ner.char_cnn import CharCNN
from tasks.ner.model import Tagger
from tasks.ner.tags import OUTSIDE, may_follow
from tasks.ner.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["<unk>", "ab", "b", "ccc", "known"], 4, "abc", ["LOC"])
SENTENCES = [
    encode(VOCABULARY, ["ab", "ccc", "b", "nn"], ["O", "B-LOC", "E-LOC", "O"]),
    encode(VOCABULARY, ["b", "ab"], ["S-LOC", "O"]),
]
WIDTH = 3


def tagger(policy=None, **options) -> Tagger:
    torch.manual_seed(0)
    sizes = {"hidden_size": 5, "layers": 1, "char_size": 4, "char_filters": 2, "char_width": WIDTH}
    model = Tagger(
        VOCABULARY,
        torch.randn(5, 6),
        **sizes,
        policy=policy or DropoutPolicy(),
        backend="dense",
        char_backend="dense",
        **options,
    )
    for parameter in model.crf.parameters():  # far from zero, where a mistake would not show
        parameter.data += torch.randn_like(parameter) * (parameter > -1)
    return model


def score(model: Tagger, emissions: torch.Tensor, tags: tuple[int, ...]) -> torch.Tensor:
    crf = model.crf
    total = crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]]
    total = total + sum(emissions[t, tag] for t, tag in enumerate(tags))
    return total + sum(crf.transitions[pair] for pair in itertools.pairwise(tags))


def test_the_loss_is_the_likelihood_among_all_tag_sequences():
    model = tagger()
    losses, best = [], []
    for sentence in SENTENCES:
        emissions = model.scores(collate([sentence], WIDTH))[:, 0]
        everything = list(itertools.product(range(len(VOCABULARY.tags)), repeat=len(emissions)))
        scores = torch.stack([score(model, emissions, tags) for tags in everything])
        losses.append(scores.logsumexp(0) - score(model, emissions, tuple(sentence.tags)))
        best.append(list(everything[int(scores.argmax())]))
    batch = collate(SENTENCES, WIDTH)
    assert torch.allclose(model(batch), sum(losses), rtol=1e-5)
    assert model.decode(batch) == best


def test_only_sequences_of_the_scheme_are_decoded():
    model = tagger()
    with torch.no_grad():
        model.projection.weight.mul_(100)
    batch = collate([encode(VOCABULARY, ["ab", "b", "nn", "ccc", "b", "b", "ab"])] * 2, WIDTH)
    for _ in range(20):
        nn.init.normal_(model.projection.bias, std=30)
        for best in model.decode(batch):
            tags = [OUTSIDE, *(VOCABULARY.tags[tag] for tag in best), OUTSIDE]
            assert all(may_follow(a, b, "IOBES") for a, b in itertools.pairwise(tags))


@pytest.mark.parametrize("backend", ["cpu", "dense"])
@pytest.mark.parametrize(("width", "filters"), [(1, 3), (2, 8), (3, 30), (4, 17)])
def test_the_character_cnn_is_a_grouped_convolution(width, filters, backend):
    if backend == "cpu" and not char_cnn._has_kernel(torch.device("cpu")):
        pytest.skip("the kernels cannot be built here")
    torch.manual_seed(0)
    cnn = CharCNN(5, 4, filters, width, dropout=0.5, backend=backend).double().eval()
    conv = nn.Conv1d(4, 4 * filters, width, groups=4, padding=width - 1, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(cnn.weight.transpose(1, 2).reshape(4 * filters, 1, width))
        conv.bias.copy_(cnn.bias)
    words = [[1, 2, 3], [5], [2, 2, 2, 2, 2, 4], [0, 1], *torch.randint(1, 6, (40, 7)).tolist()]
    characters = [0] * (width - 1)
    for word in words:
        characters += [*word, *[0] * (width - 1)]
    windows = torch.tensor([len(word) + width - 1 for word in words])
    expected = torch.cat(
        [conv(cnn.embedding(torch.tensor([word])).transpose(1, 2)).amax(2) for word in words]
    )
    result = cnn(torch.tensor(characters), windows)
    torch.testing.assert_close(result, expected)

    weight = torch.randn_like(result)
    cnn.zero_grad()
    (expected * weight).sum().backward()
    embedding = cnn.embedding.weight.grad.clone()
    cnn.zero_grad()
    (result * weight).sum().backward()
    torch.testing.assert_close(cnn.embedding.weight.grad, embedding)
    torch.testing.assert_close(
        cnn.weight.grad, conv.weight.grad.view(4, filters, width).transpose(1, 2).contiguous()
    )
    torch.testing.assert_close(cnn.bias.grad, conv.bias.grad)
    assert cnn.embedding.weight.grad[0].count_nonzero() == 0  # the padding

    with torch.no_grad():
        cnn.embedding.weight[2] = torch.nan
    spelled_with_2 = torch.tensor([2 in word for word in words])
    assert torch.equal(cnn(torch.tensor(characters), windows).isnan().all(dim=1), spelled_with_2)


def test_of_equal_windows_the_first_has_the_gradient():
    """In one pass and by torch's products; whole numbers, so that windows are equal exactly."""
    if not char_cnn._has_kernel(torch.device("cpu")):
        pytest.skip("the kernels cannot be built here")
    torch.manual_seed(0)
    cnn = CharCNN(5, 4, 6, WIDTH, dropout=0.0, backend="cpu")
    windows = torch.tensor([3, 1, 9, 5])
    x = torch.randint(2, (18 + WIDTH - 1, 4)).float()
    cnn.weight.data = torch.randint(-1, 2, cnn.weight.shape).float()
    dy = torch.randn(4, 24)
    results = []
    for function in (
        lambda x: char_cnn._ConvolveAndMax.apply(x, cnn.weight, windows),
        lambda x: char_cnn._MaxOverWindows.apply(cnn._convolve(x), windows),
    ):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        results.append([y, *torch.autograd.grad(y, (leaf, cnn.weight), dy)])
    for kernel, products in zip(*results, strict=True):
        torch.testing.assert_close(kernel, products)
    leaf = x.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(
            char_cnn._ConvolveAndMax.apply(leaf, cnn.weight, windows).sum(), leaf, create_graph=True
        )


@pytest.mark.parametrize("backend", ["auto", "cpu", "dense", "fused", "compact"])
def test_the_character_cnn_obeys_the_backend(backend, monkeypatch):
    called = []
    monkeypatch.setattr(char_cnn, "_has_kernel", lambda device: True)
    for name in ("_ConvolveAndMax", "_MaxOverWindows"):
        monkeypatch.setattr(char_cnn, name, Recorded(name, called))
    cnn = CharCNN(5, 4, 6, WIDTH, dropout=0.0, backend=backend)
    cnn(torch.tensor([0, 0, 1, 0, 0]), torch.tensor([3]))
    assert called == ["_ConvolveAndMax" if backend in ("auto", "cpu") else "_MaxOverWindows"]


class Recorded(NamedTuple):
    """Stands for an autograd function and notes that it was applied."""

    name: str
    called: list[str]

    def apply(self, *arguments):
        self.called.append(self.name)
        return torch.zeros(1, 24)


def test_a_sentence_does_not_see_its_batch():
    model = tagger().eval()
    together = model.scores(collate(SENTENCES, WIDTH))
    for i, sentence in enumerate(SENTENCES):
        alone = model.scores(collate([sentence], WIDTH))[:, 0]
        assert torch.allclose(together[: len(alone), i], alone, atol=1e-6)


def test_dropout_is_where_the_placement_says():
    batch = collate(SENTENCES, WIDTH)
    inputs = []

    def watch(model):
        model.lstm.register_forward_pre_hook(lambda _, args: inputs.append(args[0].data))
        model(batch)

    plain, embeddings = tagger(), tagger(embedding_dropout=0.5)
    structured = tagger(DropoutPolicy(nr=SiteDropout(Case.III, 0.5)))
    for model in (plain, embeddings, structured):
        watch(model)
    words = slice(0, 6)
    assert torch.equal(inputs[0], inputs[2])  # the BiLSTM masks its input itself
    assert 0.2 < (inputs[1][:, words] == 0).float().mean() < 0.8
    kept = inputs[1][:, words] != 0
    assert torch.equal(inputs[1][:, words][kept], 2 * inputs[0][:, words][kept])
    assert not torch.equal(inputs[1][:, 6:], inputs[0][:, 6:])
    assert not torch.equal(structured(batch), plain(batch))
    assert torch.equal(structured.eval()(batch), plain.eval()(batch))


def test_words_that_training_has_not_are_known_and_stay():
    model = tagger().eval()
    known = collate([encode(VOCABULARY, ["known", "ab"])], WIDTH)
    assert torch.equal(model.words(known.words)[0], model.words.known[0])
    model.words.append(torch.ones(2, 6))
    assert torch.equal(model.words(torch.tensor([5, 6])), torch.ones(2, 6))
    assert model.words.weight.shape == (4, 6)
    frozen = tagger(frozen=True)
    frozen(collate(SENTENCES, WIDTH)).backward()
    assert frozen.words.weight.grad is None
