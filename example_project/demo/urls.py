"""The HTTP routes: the pages, the log-in, the admin, and one include for each demo."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

login = LoginView.as_view(redirect_authenticated_user=True, extra_context={"hide_login": True})

urlpatterns = [
    path("", include("pages.urls")),
    path("login/", login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("weather/", include("weather.urls")),
    path("echo/", include("echo.urls")),
    path("counter/", include("counter.urls")),
    path("chat/", include("chat.urls")),
    path("notifications/", include("notifications.urls")),
]
