"""The page of the counter demo."""

from django.urls import path
from django.views.generic import TemplateView

app_name = "counter"
urlpatterns = [
    path("", TemplateView.as_view(template_name="counter/counter.html"), name="page"),
]
