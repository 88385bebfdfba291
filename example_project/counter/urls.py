"""The pages of the counter demo, and the token that one of them connects with."""

from django.urls import path
from django.views.generic import TemplateView

from counter.views import KeyView, TokenPage

app_name = "counter"
urlpatterns = [
    path("", TemplateView.as_view(template_name="counter/counter.html"), name="page"),
    path("token/", TokenPage.as_view(), name="token"),
    path("token/key/", KeyView.as_view(), name="key"),
]
