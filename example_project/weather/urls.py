"""The page of the weather demo."""

from django.urls import path
from django.views.generic import TemplateView

from weather.forecast import CITIES

app_name = "weather"
urlpatterns = [
    path(
        "",
        TemplateView.as_view(
            template_name="weather/weather.html", extra_context={"cities": list(CITIES)}
        ),
        name="page",
    ),
]
