from importlib.util import find_spec

if (
    find_spec("onmt") is None or find_spec("sacrebleu") is None
):  # without the extra nmt there is nothing to test
    collect_ignore_glob = ["test_*.py"]
