"""One authenticator for each kind of token. Start with ``authenticator.py``."""

from django_ws.auth.tokens.authenticator import Authenticator
from django_ws.auth.tokens.json_web import JSONWebTokenAuthenticator
from django_ws.auth.tokens.rest_framework import RestTokenAuthenticator, TokenLogin
from django_ws.auth.tokens.sesame import SesameAuthenticator
from django_ws.auth.tokens.simplejwt import SimpleJWTAuthenticator
from django_ws.auth.tokens.ticket import TicketAuthenticator

__all__ = [
    "Authenticator",
    "JSONWebTokenAuthenticator",
    "RestTokenAuthenticator",
    "SesameAuthenticator",
    "SimpleJWTAuthenticator",
    "TicketAuthenticator",
    "TokenLogin",
]
