import warnings

# OpenNMT-py 2.3.0 names the mixed precision of torch 1.x when it is imported; nothing here uses it.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"onmt\.")
