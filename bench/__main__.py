"""Run all benchmarks."""

from bench import loading, objectives

if __name__ == "__main__":
    loading.main()
    objectives.main()
