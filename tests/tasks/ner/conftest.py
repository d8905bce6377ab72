from importlib.util import find_spec

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
