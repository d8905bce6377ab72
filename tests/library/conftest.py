import pytest
from threads import torch_threads


@pytest.fixture(autouse=True, scope="module")
def two_threads():
    """The kernels divide their work, though `make test` gives each process a single thread."""
    with torch_threads(2):
        yield
