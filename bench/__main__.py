"""Run all benchmarks."""

from bench import acquire, blocks, captions, curate, guard, index, step
from bench.loading import compare
from bench.objectives import cost

if __name__ == "__main__":
    acquire.main()
    guard.main()
    curate.main()
    index.main()
    captions.main()
    compare.main()
    cost.main()
    blocks.main()
    step.main()
