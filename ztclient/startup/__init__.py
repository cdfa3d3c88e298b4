"""What ``ztnode exec`` puts on PYTHONPATH: Python runs ``sitecustomize`` before the program."""
