"""The index, and the icon that browsers ask for on pages that name none, such as the admin's."""

from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView, TemplateView

urlpatterns = [
    path("", TemplateView.as_view(template_name="pages/index.html"), name="index"),
    path("favicon.ico", RedirectView.as_view(url=static("pages/icon.svg"))),
]
