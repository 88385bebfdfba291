"""An app for the models that the tests of log-ins need."""

from django.apps import AppConfig


class AuthTestsConfig(AppConfig):
    name = "tests.user_models"
    label = "auth_tests"
