"""The page of the chat demo. ``?room=`` names the room: any characters may be in it."""

from django.urls import path
from django.views.generic import TemplateView

from chat.models import NAME_LENGTH, TEXT_LENGTH

app_name = "chat"
urlpatterns = [
    path(
        "",
        TemplateView.as_view(
            template_name="chat/chat.html",
            extra_context={"name_length": NAME_LENGTH, "text_length": TEXT_LENGTH},
        ),
        name="page",
    ),
]
