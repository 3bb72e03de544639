"""Run all benchmarks."""

from bench import curate, step
from bench.loading import compare
from bench.objectives import cost

if __name__ == "__main__":
    curate.main()
    compare.main()
    cost.main()
    step.main()
