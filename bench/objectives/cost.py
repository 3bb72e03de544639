"""One forward and backward pass of every objective and estimator on features, over OpenCLIP's."""

import torch
from torch.nn.functional import normalize

from bench.timing import best_of
from neuclip.objectives.registry import build

BATCH, WIDTH, REPEATS = 1024, 512, 3
PROTOTYPES, INNER_STEPS = 4096, 10
NUM_SAMPLES = 1_000_000

NETWORK = {"name": "network", "num_prototypes": PROTOTYPES, "inner_steps": INNER_STEPS}
QUEUE = {"name": "queue", "num_pairs": PROTOTYPES}
CONFIGS: dict[str, dict[str, object]] = {
    "openclip": {"name": "openclip"},
    "siglip": {"name": "siglip"},
    "sogclr": {"name": "sogclr"},
    "isogclr": {"name": "isogclr"},
    **{f"fastclip {v}": {"name": "fastclip", "version": v} for v in ("v0", "v1", "v2", "v3")},
    "amorlip": {"name": "amorlip"},
    "neuclip, network": {"name": "neuclip", "estimator": NETWORK},
    "neuclip, network, offset": {
        "name": "neuclip",
        "estimator": NETWORK | {"offset_decay": 0.97},
    },
    "neuclip, network, through": {
        "name": "neuclip",
        "estimator": NETWORK,
        "alpha_mode": "through",
    },
    "neuclip, queue": {"name": "neuclip", "estimator": QUEUE},
    "neuclip, aged queue": {
        "name": "neuclip",
        "estimator": {"name": "aged_queue", "num_pairs": PROTOTYPES},
    },
}


def main() -> None:
    torch.set_num_threads(1)  # threads that wait for a busy core would be what is measured
    product = product_seconds()
    rate = 2 * BATCH * PROTOTYPES * WIDTH / product
    print(
        f"objectives at batch {BATCH}, width {WIDTH}, m {PROTOTYPES}, T_u {INNER_STEPS}, one thread, "
        f"best of {REPEATS}; one [{BATCH}, {WIDTH}] x [{WIDTH}, {PROTOTYPES}] product runs at "
        f"{rate / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':34}{'ms':>8}{'over openclip':>15}{'GFLOP':>8}{'floor, ms':>11}{'state, MB':>11}")
    baseline = 0.0
    for name, config in CONFIGS.items():
        seconds, state_bytes = measure(config)
        baseline = baseline or seconds
        flops = flops_of(config)
        print(
            f"{name:34}{1e3 * seconds:8.1f}{seconds / baseline:15.1f}{flops / 1e9:8.1f}"
            f"{1e3 * flops / rate:11.1f}{state_bytes / 1e6:11.1f}"
        )
    reference = autograd_fit_seconds()
    print(
        f"the network's {INNER_STEPS} updates by autograd and torch's Adagrad, the reference: "
        f"{1e3 * reference:.1f} ms"
    )


def flops_of(config: dict[str, object]) -> float:
    """Products that cannot be left out: two [B, B, D] a side forward and backward, and the estimator's."""
    flops = 2.0 * BATCH * BATCH * WIDTH * (3 if config["name"] == "siglip" else 6)
    estimator = config.get("estimator")
    if isinstance(estimator, dict):
        side = 2.0 * BATCH * PROTOTYPES * WIDTH
        steps = INNER_STEPS if estimator["name"] == "network" else 0
        flops += 2 * side * (2 * steps + 1)
        if config.get("alpha_mode") == "through":
            flops += 2 * side
    if config["name"] == "amorlip":
        flops += 2 * 2.0 * BATCH * 2 * WIDTH * WIDTH * (3 * 3 + 1)
    return flops


def measure(config: dict[str, object]) -> tuple[float, int]:
    """Return seconds of a forward and backward pass, and bytes of state that do not grow with n."""
    objective = build(config, feature_dim=WIDTH, num_samples=NUM_SAMPLES)
    features = batch_of_features()
    step = 0

    def work() -> None:
        nonlocal step
        ids = (torch.arange(BATCH) + step * BATCH) % NUM_SAMPLES
        objective(*features, ids).loss.backward()
        step += 1
        objective.advance(step)

    for _ in range(PROTOTYPES // BATCH + 1):  # fills prototypes and queues
        work()
    tensors = [
        value for value in objective.state_dict().values() if isinstance(value, torch.Tensor)
    ]
    fixed = [value for value in tensors if NUM_SAMPLES not in value.shape]
    return best_of(REPEATS, work), sum(value.nbytes for value in fixed)


def batch_of_features() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [
        normalize(torch.randn(BATCH, WIDTH, generator=draw), dim=1).requires_grad_()
        for _ in range(2)
    ]


def product_seconds() -> float:
    left, right = torch.randn(BATCH, WIDTH), torch.randn(WIDTH, PROTOTYPES)
    return best_of(5, lambda: left @ right)


def autograd_fit_seconds() -> float:
    """The same inner loop as most would write it: cosine, logsumexp, backward, Adagrad."""
    anchors = torch.stack([side.detach() for side in batch_of_features()])
    prototypes = torch.nn.Parameter(normalize(torch.randn(2, PROTOTYPES, WIDTH), dim=2))
    optimizer = torch.optim.Adagrad([prototypes], lr=0.003)
    own = (anchors[0] * anchors[1]).sum(dim=1)
    batch_logs, tau = torch.zeros(2, BATCH), 0.07

    def work() -> None:
        for _ in range(INNER_STEPS):
            cosines = anchors @ normalize(prototypes, dim=2).transpose(1, 2)
            alpha = torch.logsumexp((cosines - own[:, None]) / tau, dim=2) - 8.3
            loss = ((batch_logs - alpha).exp() + alpha - 1).mean(dim=1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return best_of(1, work)
