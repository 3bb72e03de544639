"""One forward and backward pass of an objective on features: NeuCLIP against OpenCLIP."""

import torch
from torch.nn.functional import normalize

from bench.timing import best_of
from neuclip.objectives.family import build

BATCH, WIDTH, REPEATS = 256, 128, 7
NEUCLIP = [(256, 1), (256, 10), (1024, 5), (1024, 10), (4096, 10)]


def main() -> None:
    torch.set_num_threads(1)  # threads that wait for a busy core would be what is measured
    baseline = seconds({"name": "openclip"})
    print(
        f"objectives at batch {BATCH}, width {WIDTH}, {torch.get_num_threads()} threads, best of {REPEATS}"
    )
    print(f"  openclip {1e3 * baseline:.2f} ms")
    for prototypes, steps in NEUCLIP:
        taken = seconds({"name": "neuclip", "num_prototypes": prototypes, "inner_steps": steps})
        flops = 4 * BATCH * prototypes * WIDTH * (2 * steps + 1)
        print(
            f"  neuclip m {prototypes} T_u {steps}: {1e3 * taken:.2f} ms, {taken / baseline:.1f} times openclip, "
            f"{flops / taken / 1e9:.1f} GFLOP/s of the network's own products"
        )


def seconds(config: dict[str, object]) -> float:
    objective = build(config, feature_dim=WIDTH, num_samples=10 * BATCH)
    draw = torch.Generator().manual_seed(0)
    features = [
        normalize(torch.randn(BATCH, WIDTH, generator=draw), dim=1).requires_grad_()
        for _ in range(2)
    ]
    step = 0

    def work() -> None:
        nonlocal step
        objective(*features, torch.arange(BATCH) + step * BATCH).loss.backward()
        step += 1
        objective.advance(step)

    for _ in range(20):  # fills the prototypes
        work()
    return best_of(REPEATS, work)
