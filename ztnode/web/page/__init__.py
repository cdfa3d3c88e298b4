"""A page to look at a node and, where it is a controller, to run its networks: ``serve --web``.

HTML is made here, by Jinja2 with everything escaped; the browser's script only brings fresh parts of the same pages
into place, so that all of it can be read and done without. Nothing comes from another host.
"""
