"""The page of the notifications demo, and the token for the front end."""

from django.urls import path

from notifications.views import NotificationsPage, token

app_name = "notifications"
urlpatterns = [
    path("", NotificationsPage.as_view(), name="page"),
    path("token/", token, name="token"),
]
