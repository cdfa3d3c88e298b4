"""Single sign-on: a network's members log in at an OpenID Connect provider.

``members`` does it for the networks that this node has joined, ``authority`` for those that it controls. Both need the
libraries of the extra ``ztnode[sso]``, which are imported when somebody has to log in and not before.
"""

from ztnode.sign_on.sign_on_error import SignOnError

__all__ = ["SignOnError"]
