"""The template tag ``{% ws_url %}``."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import Context, TemplateSyntaxError

from django_ws.routing.resolve import ws_url as make_ws_url

register = template.Library()


@register.simple_tag(takes_context=True)
def ws_url(context: Context, name: str, *args: Any, **kwargs: Any) -> str:
    """``{% ws_url "room" room="lobby" %}``: the ``ws://`` or ``wss://`` URL of a named route.

    Arguments are those of ``{% url %}``. Needs the request in the context, for the host and
    the scheme.
    """
    request = context.get("request")
    if request is None:
        raise TemplateSyntaxError(
            "{% ws_url %} needs 'request' in the template's context: render with render(request, "
            "...), and keep django.template.context_processors.request in TEMPLATES."
        )
    return make_ws_url(request, name, args or None, kwargs or None)
