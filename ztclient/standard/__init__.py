"""Modules that are named like those of the standard library and stand in their place.

This directory is on the package's path, so that they are ``ztclient.socket`` and so on. They are not beside the others
because the package's directory is also the project's: tools that are run there would find them first.
"""
