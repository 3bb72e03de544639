"""Run all benchmarks."""

from bench import step
from bench.loading import compare
from bench.objectives import cost

if __name__ == "__main__":
    compare.main()
    cost.main()
    step.main()
