"""An OpenID Connect provider that is not ours, for the tests of single sign-on: django-oauth-toolkit, which insists on
PKCE. Run as a program with the port, a directory and the seconds for which tokens are good; says "ready" when it is.

One user, ``ada`` with the password ``lovelace``, who must type it; one public client, ``ztnode``, with the redirect URI
of the argument.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

FORM = '<form method="post">{% csrf_token %}{{ form }}<button>log in</button></form>'


class Quiet(WSGIRequestHandler):
    """Says nothing for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """See BaseHTTPRequestHandler."""


def main(port: int, directory: Path, life: int, redirect_uri: str) -> None:
    """Serve until ended."""
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # loopback has no TLS
    import django
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from django.conf import settings

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    loaders = [("django.template.loaders.locmem.Loader", {"registration/login.html": FORM})]
    settings.configure(
        SECRET_KEY="for the tests alone",
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(directory / "provider.sqlite")}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": loaders}}],
        ROOT_URLCONF="__main__",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # a slow one would be waited for
        OAUTH2_PROVIDER={
            "OIDC_ENABLED": True,
            "OIDC_RSA_PRIVATE_KEY": key.decode(),
            "OIDC_ISS_ENDPOINT": f"http://localhost:{port}/o",
            "SCOPES": {name: name for name in ("openid", "profile", "email", "offline_access")},
            "PKCE_REQUIRED": True,
            "ID_TOKEN_EXPIRE_SECONDS": life,
            "ACCESS_TOKEN_EXPIRE_SECONDS": life,
        },
    )
    django.setup()
    from django.contrib.auth.models import User
    from django.contrib.auth.views import LoginView
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from django.urls import include, path
    from oauth2_provider.models import Application

    call_command("migrate", verbosity=0)
    User.objects.create_user("ada", password="lovelace")
    Application.objects.create(
        client_id="ztnode",
        client_type="public",
        authorization_grant_type="authorization-code",
        redirect_uris=redirect_uri,
        skip_authorization=True,
        algorithm="RS256",
        name="ztnode",
    )
    globals()["urlpatterns"] = [
        path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
        path("accounts/login/", LoginView.as_view()),
    ]
    with make_server("localhost", port, get_wsgi_application(), handler_class=Quiet) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
