"""A fault program: real workers, a real Redis, hundreds of short streams, and everything that can break.

`python -m tests.faults --minutes 10 --seed 1` is the long run; `test_faults.py` is the short one.
"""
