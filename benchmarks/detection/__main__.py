"""`python -m benchmarks.detection`: how well the shipped defaults find incidents in real traces."""

from benchmarks.detection.run import main

if __name__ == "__main__":
    main()
