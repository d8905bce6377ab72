import random

import torch

from tasks.ner.batches import Batches, Encoded, by_length, collate, shuffled


def sentence(length: int) -> Encoded:
    return Encoded(list(range(length)), [[1]] * length, [0] * length)


def test_collate():
    long = Encoded([5, 6, 7], [[1, 2], [3], [4, 5, 6]], [1, 2, 3])
    short = Encoded([8], [[7]], [4])
    batch = collate([long, short], width=3)
    assert batch.words.tolist() == [5, 8, 6, 7]  # time step by time step
    assert batch.sizes.tolist() == [2, 1, 1]
    assert batch.characters.tolist() == [0, 0, 1, 2, 0, 0, 7, 0, 0, 3, 0, 0, 4, 5, 6, 0, 0]
    assert batch.windows.tolist() == [4, 3, 3, 5]
    assert batch.windows.sum() == len(batch.characters) - 2
    assert batch.tags.tolist() == [[1, 4], [2, 0], [3, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False], [True, False]]
    assert batch.sentences == 2


def test_an_epoch_has_each_sentence_once_with_others_of_its_length():
    rng = random.Random(0)
    sentences = [sentence(rng.randint(1, 12)) for _ in range(503)]
    groups = shuffled(sentences, 10, random.Random(1))
    assert sorted(i for group in groups for i in group) == list(range(503))
    assert sorted(map(len, groups)) == [3, *[10] * 50]
    lengths = [[len(sentences[i].words) for i in group] for group in groups]
    assert all(group == sorted(group, reverse=True) for group in lengths)
    assert sum(group[0] == group[-1] for group in lengths) >= len(groups) - 12
    assert lengths != sorted(lengths)
    assert groups == shuffled(sentences, 10, random.Random(1))
    assert groups != shuffled(sentences, 10, random.Random(2))


def test_batches_are_made_when_asked_for():
    sentences = [sentence(length) for length in (2, 5, 3)]
    groups = by_length(sentences, 2)
    assert groups == [[1, 2], [0]]
    batches = Batches(sentences, groups, width=3)
    assert len(batches) == 2
    assert torch.equal(batches[0].mask.sum(dim=0), torch.tensor([5, 3]))
