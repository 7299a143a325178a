"""Keystone's WSGI application. Its oslo.config reads the arguments of the process, so those of gunicorn are removed."""

import sys

sys.argv = ["keystone"]

from keystone.wsgi.api import application  # noqa: E402, F401
