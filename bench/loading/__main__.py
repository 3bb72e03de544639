"""Run the benchmarks of the loader."""

from bench.loading.compare import main

if __name__ == "__main__":
    main()
