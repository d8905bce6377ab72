"""The language model of Zaremba et al. (2014) of torch's own modules: what a user would train
without this library."""

from __future__ import annotations

from torch import Tensor, nn

from structured_dropout import Case, DropoutPolicy
from structured_dropout.experiment.errors import UsageError
from tasks.ptb.model import State, initialize


class TorchLanguageModel(nn.Module):
    """``LanguageModel``, its parameters' names too, with one nn.LSTM for all layers and random
    dropout (Case I) of inputs and output by nn.Dropout. Under torch.autocast on a GPU torch runs
    nn.LSTM in float16, in bfloat16's stead.

    Others: as in ``LanguageModel``.

    Raises:
        UsageError: the policy drops what these modules cannot.
    """

    def __init__(
        self,
        vocabulary: int,
        hidden_size: int,
        layers: int,
        tied: bool | None,
        init: float,
        policy: DropoutPolicy,
    ) -> None:
        super().__init__()
        inputs, *between = _rates(policy, layers)
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.dropout = nn.Dropout(inputs)
        self.lstm = nn.LSTM(hidden_size, hidden_size, layers, dropout=between[0] if between else 0)
        self.output_dropout = nn.Dropout(policy.output.rate() if policy.output else 0)
        self.projection = nn.Linear(hidden_size, vocabulary)
        initialize(self, tied, init)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits [T, B, vocabulary] for tokens [T, B], and the state to carry over."""
        h, state = self.lstm(self.dropout(self.embedding(tokens)), state)
        return self.projection(self.output_dropout(h)), state


def _rates(policy: DropoutPolicy, layers: int) -> list[float]:
    """Of the input of each layer."""
    sites = [site for site in (policy.nr, policy.output) if site is not None]
    if policy != DropoutPolicy(nr=policy.nr, output=policy.output) or any(
        site.case is not Case.I for site in sites
    ):
        raise UsageError(
            "nn.LSTM drops inputs and outputs at random (Case I), nothing else: leave it out with "
            "task.rival=null"
        )
    rates = [policy.nr.rate(layer) if policy.nr else 0.0 for layer in range(layers)]
    if len(set(rates[1:])) > 1:
        raise UsageError(
            f"nn.LSTM has one rate between layers, dropout.nr.p has {rates[1:]}: leave it out with "
            "task.rival=null"
        )
    return rates
