"""Run all benchmarks."""

from bench import loading, step
from bench.objectives import cost

if __name__ == "__main__":
    loading.main()
    cost.main()
    step.main()
