import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def two_threads():
    """The kernels divide their work, though `make test` gives each process a single thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
