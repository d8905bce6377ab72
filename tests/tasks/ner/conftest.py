from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if (
    find_spec("torchcrf") is None or find_spec("seqeval") is None
):  # without the extra ner there is nothing to test
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny models train faster so; other tests want all threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(launch, tiny_columns, tmp_path_factory) -> Path:
    """The folder of a training that learned the made-up sentences."""
    folder = tmp_path_factory.mktemp("trained")
    launch(*tiny_columns, "dropout=nr_st", "train.epochs=12", "train.lr=.1", f"run.dir={folder}")
    return folder
