"""The WebSocket routes: the handler classes stand where views stand in urls.py."""

from django.urls import path

from chat.ws import ChatHandler
from counter.ws import CounterHandler
from echo.ws import EchoHandler
from notifications.ws import NotificationsHandler
from weather.ws import WeatherHandler

urlpatterns = [
    path("ws/weather/", WeatherHandler, name="weather"),
    path("ws/echo/", EchoHandler, name="echo"),
    path("ws/counter/", CounterHandler, name="counter"),
    path("ws/chat/", ChatHandler, name="chat"),
    path("ws/notifications/", NotificationsHandler, name="notifications"),
]
