"""The topics of the demo."""

from django.contrib.auth.models import AnonymousUser, User

# One for all that is done in the admin, and for the word that permissions have changed. Broadcasts
# of one topic keep their order: what is done after a permission was taken away comes after the
# word of that, and so meets a handler that has read the permissions again.
ADMIN = "notifications"


def sockets_of(user: User | AnonymousUser) -> str:
    """Nothing is broadcast there: by this name the log-out ends the sockets of a user."""
    return f"notifications:user:{user.pk}"
