"""Coverage-guided fuzzing with atheris: ``python -m tests.fuzz``, or ``make fuzz``. One is a module of ``targets``."""
