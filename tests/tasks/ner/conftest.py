from importlib.util import find_spec
from pathlib import Path

import pytest
from threads import torch_threads

if (
    find_spec("torchcrf") is None or find_spec("seqeval") is None
):  # without the extra ner there is nothing to test
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny models train faster so; other tests want all threads."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="session")
def trained(launch, tiny_columns, tmp_path_factory) -> Path:
    """The folder of a training that learned the made-up sentences."""
    folder = tmp_path_factory.mktemp("trained")
    launch(*tiny_columns, "dropout=nr_st", "train.epochs=12", "train.lr=.1", f"run.dir={folder}")
    return folder
