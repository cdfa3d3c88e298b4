"""Fuzzing of every decoder and engine with atheris (libFuzzer): see ``targets``.

    make fuzz                         all targets in one process, for 20 seconds, as CI does
    make fuzz SECONDS=3600            for an hour
    python -m tests.fuzz --seconds 600 vl1-leaf vl1-root

What reaches new code is kept in ``build/fuzz/TARGET``, an input that raises, hangs for 10 s or takes 1 GB as
``build/fuzz/TARGET-crash-...``. ``tests/fuzz/corpus`` has a small part of what was found so far; ``test_fuzz.py`` plays
it back without atheris. ``python -m tests.fuzz --merge`` chooses the corpus anew from both.
"""
